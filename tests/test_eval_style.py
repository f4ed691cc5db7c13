"""`reverie eval style`: the networks that it finds, its figures and its plot."""

import json
from dataclasses import asdict
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from imaging import images
from reverie import restylers
from reverie.cli import cli
from reverie.restylers import RestylerError, restyler_of
from reverie.style_evaluation import held_out, rounded
from reverie.style_plot import front
from serving.style.margin import Margins
from synthesis.style.network import StyleNetworkConfig, build, restyle
from tests.conftest import PROJECT
from training.runs import Run
from training.style.evaluation.peers import Peer
from training.style.train import KIND, StyleTraining

pytestmark = pytest.mark.tensorflow

REPOSITORY = PROJECT / "model_repository"
STYLES = json.loads(next((REPOSITORY / "style").glob("*/styles.json")).read_text())


def random_picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_published_version_is_painted_as_it_is_served():
    photo = random_picture(45, 70)
    network = restyler_of(restylers.newest(REPOSITORY), REPOSITORY)
    assert network.styles == tuple(STYLES)
    assert np.array_equal(network.paint(photo, STYLES[1], 0.0), photo)
    margins = Margins()
    with_margins = margins.take_off(network.network(margins.put_on(photo)))
    assert np.array_equal(network.paint(photo, STYLES[0], 1.0), with_margins)
    half = network.paint(photo, STYLES[0], 0.5).astype(int)
    assert np.abs(2 * half - photo - with_margins).max() <= 2
    assert not np.array_equal(network.paint(photo, STYLES[1], 1.0), with_margins)


def test_a_version_s_folder_is_its_number():
    number = restylers.newest(REPOSITORY)
    assert restyler_of(str(REPOSITORY / "style" / number), REPOSITORY).name == f"style/{number}"


@pytest.mark.slow
def test_a_run_that_is_not_finished_is_measured_at_its_last_checkpoint(tmp_path):
    config = StyleTraining(StyleNetworkConfig(("dots", "lines"), width=12, blocks=1))
    network = build(config.network)
    network.to_rgb.share.assign([[0.2], [0.7]])
    run = Run.create(KIND, asdict(config), tmp_path / "run")
    run.checkpoints.save(3, [np.asarray(variable) for variable in network.variables])
    found = restyler_of(str(run.path), REPOSITORY)
    assert found.styles == ("dots", "lines")
    photo, margins = random_picture(32, 40), Margins()
    expected = restyle(network, margins.put_on(photo)[None], np.array([[0, 1]], np.float32))[0]
    assert np.array_equal(found.paint(photo, "lines", 1.0), margins.take_off(expected))


@pytest.mark.parametrize("name", ["99", "nowhere"])
def test_what_is_no_network_is_refused(name):
    with pytest.raises(RestylerError, match=rf"{name} is no style network; accepted: .* \(there: .*\d+\)"):
        restyler_of(name, REPOSITORY)


def test_a_repository_without_versions_is_refused(tmp_path):
    with pytest.raises(RestylerError, match=r"holds no version of style; name a run"):
        restylers.newest(tmp_path)


def test_photographs_come_from_every_folder_and_from_what_a_training_left_out(random_photos, tmp_path):
    (tmp_path / "one.png").write_bytes(images.encode(random_picture(40, 40)))
    both = held_out([tmp_path], random_photos, None)
    assert both[0] == tmp_path / "one.png"
    assert len(both) == 1 + 6  # Of twelve photographs half are held out.
    assert held_out([tmp_path, random_photos], None, 2) == [tmp_path / "one.png", max(random_photos.iterdir())]


@pytest.mark.slow
def test_the_command_measures_two_networks_side_by_side(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    for name in STYLES[:2]:
        (tmp_path / f"{name}.png").write_bytes(images.encode(images.resize(random_picture(8, 9), 80, 90)))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(images.encode(images.resize(random_picture(6, 8), 96, 128)))
    command = ["eval", "style", "--photos", str(tmp_path / "photos"), "--closely", "1", "--curve", "1"]
    command += ["--size", "128", "--repository", str(REPOSITORY), "--against", restylers.newest(REPOSITORY)]
    command += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    command += [part for name in STYLES[:2] for part in ("--style", str(tmp_path / f"{name}.png"))]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    figures = json.loads(result.stdout.splitlines()[-1])
    (other,) = figures["against"]
    assert figures["network"] == other["network"] == f"style/{restylers.newest(REPOSITORY)}"
    assert {k: v for k, v in other.items() if k != "ms_512"}.items() <= figures.items()
    assert list(figures["style_error"]) == list(figures["sliced_wasserstein"]) == ["384", "512", "own"]
    assert list(figures["recognised"]["by_style"]) == list(figures["styles"]) == STYLES[:2]
    assert figures["ms_512"] > 0 < figures["content_error"]["block4_conv2"]
    assert [point["strength"] for point in figures["styles"][STYLES[0]]["curve"]] == [0.25, 0.5, 0.75, 1.0]
    assert images.read(tmp_path / "out" / "sheet.jpg").shape == (256, 256 * (1 + 2 * 2), 3)
    ElementTree.parse(tmp_path / "out" / "front.svg")


def test_the_plot_has_each_network_s_curve_and_the_peers_in_their_styles():
    curve = [{"strength": s, "content_error": s, "style_error": 1 - s} for s in (0.5, 1.0)]
    peers = [Peer("other", "b", 0.9, 0.1)]
    svg = ElementTree.fromstring(front([(name, {"a": curve, "b": curve}) for name in ("new", "old")], peers))
    panels = [
        [text for text in map(str.strip, panel.itertext()) if text]
        for panel in svg.iter("{http://www.w3.org/2000/svg}g")
    ]
    assert [texts[0] for texts in panels] == ["all styles", "a", "b"]
    assert all({"new", "old", "0.5"} <= set(texts) for texts in panels)
    assert ["other" in texts for texts in panels] == [False, False, True]


def test_figures_are_rounded_to_four_digits_wherever_they_are():
    assert rounded({"a": [1.23456, {"b": 0.000123456}], "c": 7, "d": None}) == {
        "a": [1.235, {"b": 0.0001235}],
        "c": 7,
        "d": None,
    }
