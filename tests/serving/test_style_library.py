"""Styles that no version was trained on: their files, the library, and what `stylize` makes of names and vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from imaging import images
from registry.history import History
from reverie.cli import cli
from reverie.errors import InputError
from serving.style.choice import AskedStyle, StyleChooser
from serving.style.library import FOLDER, Shelf, StyleExistsError, StyleLibrary, UnknownStyleError
from serving.style.parameters import StylizeParameters
from serving.style.style_file import StyleFile, StyleFileError
from serving.style.stylist import Stylist
from serving.style.table import StyleTable, StyleTableError
from tests.serving.style_graph import (
    COLORS,
    NETWORK,
    color_table,
    stylist_of,
    tint_as_version,
    tint_with,
    with_mirrored_margin,
    write_version,
)

PINK = np.array([90, 40, 60], np.float32)
PHOTO = images.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), 60, 80)


def style(name: str = "pink", vector: np.ndarray = PINK, network: str = NETWORK, **more) -> StyleFile:
    return StyleFile.of(name, network, vector, **more)


@pytest.fixture
def library(tmp_path) -> StyleLibrary:
    write_version(tmp_path / "models" / "style" / "1", NETWORK)
    return StyleLibrary(tmp_path / "models")


@pytest.fixture
def stylist(library) -> Stylist:
    return stylist_of(tint_as_version, library.repository / "style" / "1", library=library)


def restyled(stylist: Stylist, client: str = "", vector: np.ndarray | None = None, **parameters) -> np.ndarray:
    data = images.encode(PHOTO)
    return images.decode(stylist.stylize(data, StylizeParameters(**parameters), client, vector=vector))


def painted(color: np.ndarray) -> np.ndarray:
    return with_mirrored_margin(tint_with, PHOTO, color)


# What a version takes.


def test_a_version_s_own_graph_says_whether_it_takes_vectors_or_weights(tmp_path):
    new, old = StyleTable.read(write_version(tmp_path / "1", NETWORK)), StyleTable.read(write_version(tmp_path / "2"))
    assert (new.input, new.network, new.takes_vectors) == ("style", NETWORK, True)
    assert (old.input, old.network, old.takes_vectors) == ("style_weights", "", False)
    np.testing.assert_array_equal(new.rows, [*COLORS.values()])
    np.testing.assert_array_equal(old.rows, np.eye(3))


def test_a_version_that_takes_vectors_and_has_none_says_what_to_do(tmp_path):
    folder = write_version(tmp_path / "1", NETWORK)
    (folder / "styles.npz").unlink()
    with pytest.raises(StyleTableError, match=r"styles\.npz cannot be read: .*; export the version again"):
        StyleTable.read(folder)


@pytest.mark.parametrize("network", ["", NETWORK])
def test_blends_come_out_alike_from_a_table_of_vectors_and_one_of_weights(tmp_path, network):
    stylist = stylist_of(tint_as_version, write_version(tmp_path / "1", network))
    for blend in ({"red": 1}, {"green": 1, "blue": 3}):
        color = sum(np.array(COLORS[n]) * share / sum(blend.values()) for n, share in blend.items())
        np.testing.assert_array_equal(restyled(stylist, styles=blend), painted(color))


# A vector of the caller's own.


def test_a_vector_of_one_s_own_is_a_style(stylist):
    np.testing.assert_array_equal(restyled(stylist, vector=PINK), painted(PINK))
    np.testing.assert_array_equal(restyled(stylist, vector=PINK[None], style_network=NETWORK), painted(PINK))


@pytest.mark.parametrize(
    ("vector", "parameters", "expected"),
    [
        (PINK[:2], {}, r"style_vector: shape \[2\]; accepted: \[3\]"),
        (np.stack([PINK, PINK]), {}, r"style_vector: shape \[2, 3\]; accepted: \[3\]"),
        (PINK[:0], {}, r"style_vector: shape \[0\]; accepted: \[3\]"),
        (PINK * np.float32("nan"), {}, "style_vector: holds NaN or infinity; accepted: finite numbers"),
        (PINK + np.float32("inf"), {}, "style_vector: holds NaN or infinity"),
        (PINK * 100, {}, r"3 of 3 numbers are far from .*; number 0 is 9000, accepted there: -91 to 181"),
        (PINK, {"style": "red"}, "style_vector: came together with 'red'; give a vector or names"),
        (PINK, {"styles": {"red": 1}}, "style_vector: came together with"),
        (PINK, {"style_network": "f" * 16}, f"style_network: 'ffffffffffffffff'; accepted: '{NETWORK}'"),
        (None, {"style_network": NETWORK}, "style_network: says what a style_vector was made for, and none came"),
    ],
)
def test_a_vector_that_is_not_accepted_is_refused_with_what_is(stylist, vector, parameters, expected):
    with pytest.raises(InputError, match=expected):
        restyled(stylist, vector=vector, **parameters)


def test_a_network_that_takes_weights_refuses_vectors_and_says_what_it_has(tmp_path):
    stylist = stylist_of(tint_as_version, write_version(tmp_path / "1"))
    with pytest.raises(InputError, match="takes its own styles only; accepted: red, green, blue"):
        restyled(stylist, vector=PINK)


def test_all_mixtures_of_the_trained_styles_are_accepted():
    table, rng = color_table(), np.random.default_rng(0)
    for shares in rng.dirichlet(np.ones(3), 100):
        table.check((shares @ table.rows).astype(np.float32), "a mixture")


def test_a_canary_of_another_network_answers_names_with_its_own_vectors_and_leaves_what_does_not_fit_it(tmp_path):
    stable, canary = (
        write_version(tmp_path / number, network) for number, network in (("1", NETWORK), ("2", "e" * 16))
    )
    StyleTable.of_vectors(["red"], np.array([[1, 2, 3]], np.float32), "e" * 16).write(canary)
    chooser = StyleChooser(stable, lambda: canary)

    def chosen(vector: np.ndarray | None = None, **parameters) -> tuple[Path, list[float]]:
        found = chooser.choose(AskedStyle(StylizeParameters(**parameters), vector))
        return found.folder, found.inputs["style"][0].tolist()

    assert chosen(style="red") == (canary, [1, 2, 3])
    assert chosen(style="blue") == (stable, [0, 0, 90])
    assert chosen(PINK, style_network=NETWORK) == (stable, PINK.tolist())
    with pytest.raises(InputError, match="'pink' is unknown; accepted: red, green, blue"):
        chosen(style="pink")


# The library.


def test_a_running_stylist_knows_a_style_as_soon_as_it_is_there_and_forgets_it_when_it_goes(stylist, library):
    with pytest.raises(InputError, match="style: 'pink' is unknown; accepted: red, green, blue"):
        restyled(stylist, style="pink")
    library.add(style())
    np.testing.assert_array_equal(restyled(stylist, style="pink"), painted(PINK))
    half = PINK / 2 + np.array(COLORS["red"]) / 2
    np.testing.assert_array_equal(restyled(stylist, styles={"pink": 1, "red": 1}), painted(half))
    assert stylist.styles() == ["red", "green", "blue", "pink"]
    library.remove("pink")
    library.add(style(vector=PINK / 2))
    np.testing.assert_array_equal(restyled(stylist, style="pink"), painted(PINK / 2))
    library.remove("pink")
    assert stylist.styles() == ["red", "green", "blue"]
    with pytest.raises(InputError, match="'pink' is unknown"):
        restyled(stylist, style="pink")


def test_a_style_of_a_client_is_nobody_else_s_and_goes_before_everybody_s(stylist, library):
    library.add(style("ours"), owner="museum")
    np.testing.assert_array_equal(restyled(stylist, "museum", style="ours"), painted(PINK))
    for stranger in ("", "muse", "museum/", "of-museum"):
        assert "ours" not in stylist.styles(stranger)
        with pytest.raises(InputError, match=r"'ours' is unknown; accepted: red, green, blue$"):
            restyled(stylist, stranger, style="ours")
    library.add(style("ours", PINK / 2))
    np.testing.assert_array_equal(restyled(stylist, style="ours"), painted(PINK / 2))
    np.testing.assert_array_equal(restyled(stylist, "museum", style="ours"), painted(PINK))


@pytest.mark.parametrize("owner", ["..", "a/b", "../../x", "é" * 300, "everybody", "\x00", "of-x", " "])
def test_whatever_an_owner_is_called_the_shelf_is_in_the_library_and_its_own(tmp_path, owner):
    shelf = Shelf.of(tmp_path, owner)
    assert shelf.folder.parent == tmp_path
    assert len(shelf.folder.name) <= 255
    assert shelf.folder != Shelf.of(tmp_path, "").folder
    assert Shelf.at(shelf.folder).owner == owner or len(owner) == 300


@pytest.mark.parametrize(
    "name", ["", " pink", "a/b", "../x", "pink,red", "a=1", "a\n", "x" * 101, "é" * 51, "a  b", "\ud800"]
)
def test_a_name_with_odd_characters_is_refused_with_what_is_accepted(library, name):
    library.add(style())
    with pytest.raises(InputError, match=r"accepted: letters, digits, '_', '-', '.' and single spaces"):
        library.rename("pink", name)
    assert library.find(name) is None
    assert library.names() == ["pink"]


@pytest.mark.parametrize("name", ["pink", "red"])
def test_a_name_that_is_taken_stays_with_the_style_that_has_it(library, name):
    library.add(style())
    library.add(style("rose"))
    for change in (lambda: library.add(style(name)), lambda: library.rename("rose", name)):
        with pytest.raises(StyleExistsError, match=f"there is a style '{name}' already; accepted: another name"):
            change()
    with pytest.raises(StyleExistsError):
        library.add(style(name), owner="museum")
    assert library.names() == ["pink", "rose"]


def test_a_style_that_is_not_there_is_refused_with_those_that_are(library):
    library.add(style())
    library.add(style("ours"), owner="museum")
    for change in (lambda: library.remove("rose"), lambda: library.rename("rose", "x"), lambda: library.get("rose")):
        with pytest.raises(UnknownStyleError, match=r"there is no style 'rose' .*; there: pink$"):
            change()
    with pytest.raises(UnknownStyleError, match=r"of 'museum' in .*; there: ours$"):
        library.remove("pink", owner="museum")


def test_a_style_of_another_network_is_refused_when_it_comes_and_when_the_network_has_changed(stylist, library):
    with pytest.raises(InputError, match=f"made for the network ffffffffffffffff; served is {NETWORK}: learn it again"):
        library.add(style(network="f" * 16))
    library.add(style())
    (later,) = [write_version(library.repository / "style" / "2", "f" * 16)]
    retrained = stylist_of(tint_as_version, later, library=library)
    with pytest.raises(
        InputError, match=f"style 'pink' was made for the network {NETWORK}; served is ffffffffffffffff"
    ):
        restyled(retrained, style="pink")
    np.testing.assert_array_equal(restyled(retrained, style="red"), painted(np.array(COLORS["red"])))
    assert (stylist.styles()[3:], retrained.styles()[3:]) == (["pink"], [])


def test_a_damaged_file_is_named_and_no_other_style_suffers(stylist, library):
    library.add(style())
    library.add(style("rose"))
    path = Shelf.of(library.repository / "style" / FOLDER, "").path("pink")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StyleFileError, match="the file of style 'pink' holds no style"):
        restyled(stylist, style="pink")
    np.testing.assert_array_equal(restyled(stylist, style="rose"), painted(PINK))
    assert stylist.styles() == ["red", "green", "blue", "rose"]


def test_a_style_far_from_all_trained_ones_is_not_taken(library):
    with pytest.raises(InputError, match="style 'pink': 3 of 3 numbers are far from those of all trained styles"):
        library.add(style(vector=PINK * 100))
    assert library.names() == []


def test_every_change_leaves_a_line_in_the_history_and_a_failed_one_none(library):
    library.add(style(), owner="museum")
    with pytest.raises(StyleExistsError):
        library.add(style(), owner="museum")
    library.rename("pink", "rose", owner="museum")
    library.remove("rose", owner="museum")
    events = History(library.repository / "style" / FOLDER).events()
    told = [(e["event"], e["style"], e.get("was"), e["owner"]) for e in events]
    assert told == [
        ("added", "pink", None, "museum"), ("renamed", "rose", "pink", "museum"), ("removed", "rose", None, "museum")
    ]  # fmt: skip


def test_the_library_is_no_version_and_travels_to_no_bucket(library):
    from registry.bucket import _companions
    from registry.repository import Repository

    library.add(style())
    assert Repository(library.repository).versions("style") == [1]
    assert _companions(library.repository / "style") == []


# Files.


def test_a_style_s_file_gives_back_what_it_was_made_of():
    made = style(
        painting="Rosé", painting_sha256="a" * 64, thumbnail=b"\xff\xd8", measures={"style_error": 0.5}, made="2026"
    )
    again = StyleFile.of_bytes(made.to_bytes(), "it")
    assert again == made
    np.testing.assert_array_equal(again.vector, PINK)
    assert len(style(vector=np.zeros(2657, np.float32)).to_bytes()) < 16_000


def altered(**changes) -> bytes:
    return json.dumps(json.loads(style().to_bytes()) | changes).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "holds no style; accepted: what 'reverie styles export' has written"),
        (b"[]", "holds no style"),
        (b"\xff\xd8", "holds no style"),
        (style().to_bytes()[:-20], "holds no style"),
        (b"[" * 100_000, "holds no style"),
        (b"x" * (1 << 21), "has 2097152 bytes; accepted: at most 1048576"),
        (altered(name="a/b"), "name: .*cannot be called 'a/b'"),
        (altered(numbers="AAA"), "numbers: .*not base64"),
        (altered(numbers=""), "numbers: .*0 bytes; accepted: finite float32 numbers"),
        (altered(numbers="AADAfw=="), "numbers: .*4 bytes; accepted: finite float32 numbers"),
        (altered(network="x"), "network: "),
        (altered(color="pink"), "color: "),
        (altered(painting="another"), "was altered: its own hash is not that of its contents"),
    ],
)
def test_a_file_that_holds_no_style_is_refused_with_what_is_wrong(data, expected):
    with pytest.raises(StyleFileError, match=expected):
        StyleFile.of_bytes(data, "it")


# The commands.


def run(library: StyleLibrary, *arguments: str):
    return CliRunner().invoke(cli, ["styles", *arguments, "--repository", str(library.repository)])


def test_a_style_goes_out_by_a_command_and_in_again_under_another_name(library, tmp_path):
    assert run(library, "export", "red", str(tmp_path / "red.json")).exit_code == 0
    done = run(library, "import", str(tmp_path / "red.json"), "--name", "crimson", "--owner", "museum")
    assert (done.exit_code, done.stdout) == (0, "crimson is there for museum\n")
    np.testing.assert_array_equal(library.get("crimson", "museum").vector, COLORS["red"])
    listed = run(library, "list").stdout
    assert all(word in listed for word in ("red", "the network", "crimson", "museum", NETWORK))
    assert run(library, "rename", "crimson", "ruby", "--owner", "museum").stdout == "crimson is now ruby\n"
    assert run(library, "show", "ruby", "--owner", "museum").stdout == f"ruby: 3 numbers for the network {NETWORK}\n"
    assert run(library, "remove", "ruby", "--owner", "museum").exit_code == 0
    assert library.names("museum") == []


def test_a_thumbnail_is_written_where_a_style_has_one(library, tmp_path):
    library.add(style(thumbnail=b"\xff\xd8 picture", painting="Roses", measures={"style_error": 0.25}))
    library.add(style("bare"))
    shown = run(library, "show", "pink", "--thumbnail", str(tmp_path / "pink.jpg"))
    assert "painting: Roses" in shown.stdout and "style_error: 0.25" in shown.stdout
    assert (tmp_path / "pink.jpg").read_bytes() == b"\xff\xd8 picture"
    with pytest.raises(InputError, match="style 'bare' has no thumbnail"):
        raise run(library, "show", "bare", "--thumbnail", str(tmp_path / "bare.jpg")).exception
