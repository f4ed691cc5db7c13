"""Mixes from files: what is sent is what the file says, and what it may not say is named."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reverie_client import PictureStep, Score, TextDelta

from imaging import images
from loadtests import mix
from loadtests.endpoints import photograph
from loadtests.mix import MixError
from serving.triton.server import PROJECT


class Recorder:
    """Takes the place of the client; keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **parameters: Any) -> Any:
            self.asked.append((method, arguments, parameters))
            return {"score": Score(-1.0, [b"a"], [-1.0]), "stylize": b"x", "style": np.zeros((1, 1, 3))}.get(
                method, _Stream()
            )

        return call


class _Stream(list[Any]):
    def __init__(self) -> None:
        super().__init__([TextDelta("a", "stop"), PictureStep(1, 1, 0, 0.0, 0.0, b"x", done=True)])

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two pictures in `photos/`, one of them in a folder of its own, and what is no picture beside them."""
    for number, path in enumerate(("photos/a.PNG", "photos/sub/b.png", "painting.png")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(images.encode(photograph(32, 48 + number, seed=number)))
    (tmp_path / "photos" / "._a.png").write_bytes(b"AppleDouble")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def sent(path: Path, endpoint: str, calls: int = 60) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What calls of an endpoint with seeds 0, 1, ... ask."""
    recorder = Recorder()
    request = mix.load(path).endpoints[endpoint].request
    for seed in range(calls):
        list(request(recorder, random.Random(seed)))  # type: ignore[arg-type]
    return recorder.asked


def test_prompts_and_parameters_are_the_files_and_each_call_has_a_seed_of_its_own(folder: Path):
    path = written(
        folder,
        '[[request]]\nendpoint = "generate"\nprompts = ["one", "zwei", "trois"]\n'
        'parameters = {max_tokens = 7, temperature = 0.5, stop = ["\\n", "."]}\n',
    )
    asked = sent(path, "generate")
    assert {arguments for _, arguments, _ in asked} == {("one",), ("zwei",), ("trois",)}
    assert all((p["max_tokens"], p["temperature"], p["stop"]) == (7, 0.5, ["\n", "."]) for *_, p in asked)
    assert len({p["seed"] for *_, p in asked}) == len(asked)


def test_the_same_seed_asks_for_the_same(folder: Path):
    path = written(
        folder, '[[request]]\nendpoint = "stylize"\npictures = "photos"\n[[request]]\nendpoint = "stylize"\n'
    )
    assert sent(path, "stylize") == sent(path, "stylize")


def test_prompts_may_come_from_a_file_with_one_a_line(folder: Path):
    (folder / "prompts.txt").write_text("\ufeffprémier\n\n  deux \n", encoding="utf-8")
    path = written(folder, '[[request]]\nendpoint = "score"\nprompts = "prompts.txt"\n')
    assert {arguments for _, arguments, _ in sent(path, "score")} == {("prémier",), ("  deux ",)}


@pytest.mark.parametrize("endpoint", ["stylize", "deepdream", "style_transfer"])
def test_pictures_come_from_the_folder_and_its_subfolders(folder: Path, endpoint: str):
    path = written(folder, f'[[request]]\nendpoint = "{endpoint}"\npictures = "photos"\nparameters = {{size = 64}}\n')
    asked = sent(path, endpoint)
    expected = {(folder / "photos" / name).read_bytes() for name in ("a.PNG", "sub/b.png")}
    assert {arguments[0] for _, arguments, _ in asked} == expected
    assert all(parameters["size"] == 64 for *_, parameters in asked)


def test_tensors_are_the_pictures_pixels(folder: Path):
    path = written(folder, '[[request]]\nendpoint = "style"\npictures = "photos/a.PNG"\n')
    (((_, (image,), _),)) = sent(path, "style", calls=1)
    np.testing.assert_array_equal(image, images.read(folder / "photos" / "a.PNG"))


def test_paintings_and_guides_are_the_files(folder: Path):
    path = written(
        folder,
        '[[request]]\nendpoint = "style_transfer"\npaintings = "painting.png"\n'
        '[[request]]\nendpoint = "deepdream"\nguides = "painting.png"\n',
    )
    painting = (folder / "painting.png").read_bytes()
    assert sent(path, "style_transfer", calls=1)[0][1][1] == painting
    assert sent(path, "deepdream", calls=1)[0][2]["guide_image"] == painting


def test_requests_to_one_endpoint_share_it_in_proportion_to_their_weights(folder: Path):
    tables = '[[request]]\nendpoint = "score"\nweight = {}\nprompts = ["{}"]\n'
    path = written(folder, tables.format(0.5, "seldom") + tables.format(1.5, "often"))
    counts = Counter(arguments for _, arguments, _ in sent(path, "score", calls=2000))
    assert counts["often",] / counts["seldom",] == pytest.approx(3, rel=0.15)
    assert mix.load(path).weights == {"score": 2.0}


def test_a_mix_has_another_name_when_a_prompt_a_parameter_or_a_pictures_content_changes(folder: Path):
    text = '[[request]]\nendpoint = "{}"\n{}\n'
    names = [
        mix.load(written(folder, text.format(*case))).name
        for case in (
            ("score", 'prompts = ["a"]'),
            ("score", 'prompts = ["b"]'),
            ("stylize", 'pictures = "photos"'),
            ("stylize", 'pictures = "photos"\nparameters = {size = 64}'),
        )
    ]
    (folder / "photos" / "a.PNG").write_bytes(images.encode(photograph(32, 48, seed=9)))
    names.append(mix.load(written(folder, text.format("stylize", 'pictures = "photos"'))).name)
    assert len({*names, mix.DEFAULT.name}) == 6


def test_the_example_is_a_mix():
    assert set(mix.load(PROJECT / "loadtests" / "example_mix.toml").endpoints) == {
        "generate", "score", "stylize", "style_transfer"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request = 3", "request: 3 is not accepted; accepted: one table"),
        ("", r"request: \[\] is not accepted; accepted: one table"),
        ("[[requests]]", r"requests: unknown key; accepted: tables \[\[request\]\]"),
        ("[[request]]\nweight = 1", "request 1: endpoint: missing; accepted: generate, score, "),
        ('[[request]]\nendpoint = "generat"', "request 1: endpoint: 'generat' is not accepted; accepted: generate, "),
        ("[[request]]\nendpoint = [1]", r"request 1: endpoint: \[1\] is not accepted; accepted: generate, "),
        (
            '[[request]]\nendpoint = "score"\n[[request]]\nendpoint = "score"\nweight = 0',
            r"request 2 \(score\): weight: 0 is not accepted; .*greater than 0",
        ),
        ('[[request]]\nendpoint = "score"\nweight = "3"', "weight: '3' is not accepted; .*number"),
        ('[[request]]\nendpoint = "score"\nweight = true', "weight: True is not accepted; .*number"),
        ('[[request]]\nendpoint = "score"\nweight = nan', "weight: nan is not accepted; "),
        (
            '[[request]]\nendpoint = "score"\npictures = "photos"',
            r"\(score\): pictures: unknown key; accepted: endpoint, prompts, weight",
        ),
        ('[[request]]\nendpoint = "score"\nparameters = {}', "parameters: unknown key; accepted: endpoint, prompts"),
        ('[[request]]\nendpoint = "score"\nprompts = []', "prompts: there is none; accepted: one text or more"),
        ('[[request]]\nendpoint = "score"\nprompts = [1]', "prompts.*1 is not accepted; .*string"),
        ('[[request]]\nendpoint = "score"\nprompts = "no.txt"', r"prompts: \S*no.txt cannot be read \(No such file"),
        ('[[request]]\nendpoint = "style"\npictures = "no"', r"pictures: \S*no does not exist; accepted: a folder of"),
        (
            '[[request]]\nendpoint = "style"\npictures = "empty"',
            r"pictures: \S*empty holds no pictures; accepted: files",
        ),
        ('[[request]]\nendpoint = "style"\npictures = "photos/notes.txt"', r"pictures: \S*notes.txt: .*not an image"),
        (
            '[[request]]\nendpoint = "generate"\nparameters = {temperatur = 1}',
            r"\(generate\): parameters: temperatur: unknown parameter; accepted: echo, .*temperature",
        ),
        (
            '[[request]]\nendpoint = "generate"\nparameters = {temperature = 3}',
            "parameters: temperature: 3 is not accepted; .*less than or equal to 2",
        ),
        (
            '[[request]]\nendpoint = "stylize"\nparameters = {format = "gif"}',
            "parameters: format: 'gif' is not accepted; .*'png'",
        ),
        (
            '[[request]]\nendpoint = "deepdream"\nparameters = {layers = {a = 1}}',
            "parameters.*layers.* is not accepted",
        ),
        *(
            (
                f'[[request]]\nendpoint = "{endpoint}"\nparameters = {{{name} = 1}}',
                rf"\({endpoint}\): parameters: {name}: unknown parameter; accepted: .*preview_every",
            )
            for endpoint in ("deepdream", "style_transfer")
            for name in ("sise", "timeout", "style_image")
        ),
        ("[[request]\n", "not TOML"),
    ],
)
def test_what_a_mix_may_not_say_is_named_with_what_is_accepted(folder: Path, text: str, message: str):
    (folder / "empty").mkdir()
    with pytest.raises(MixError, match=rf"mine\.toml.*{message}"):
        mix.load(written(folder, text))


def test_a_missing_file_is_named():
    with pytest.raises(MixError, match=r"no\.toml: cannot be read \(No such file.*--mix"):
        mix.load(Path("no.toml"))
