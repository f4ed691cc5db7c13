"""The commands a person types, against the running server."""

from __future__ import annotations

import pytest
from PIL import Image
from typer.testing import CliRunner

from reverie.cli import cli
from synthesis import images
from tests.conftest import PICTURES

runner = CliRunner()


@pytest.fixture
def run(server):
    return lambda *arguments: runner.invoke(cli, [*map(str, arguments), "--address", server.address.grpc])


def test_stylize_writes_the_format_that_the_ending_names(run, tmp_path):
    for name in ("a.png", "a.jpg", "a.webp"):
        assert run("stylize", PICTURES / "cat.jpg", tmp_path / name, "--size", 128).exit_code == 0
        assert images.read(tmp_path / name).shape == (85, 128, 3)


def test_generate_prints_the_prompt_and_its_continuation(run):
    result = run("generate", "this movie", "--max-tokens", 5, "--seed", 1)
    assert result.exit_code == 0
    assert result.stdout.startswith("this movie ")


def test_dream_writes_its_steps_and_the_result(run, tmp_path):
    out = tmp_path / "dream.png"
    film = tmp_path / "film.webp"
    options = ("--size", 160, "--num-octave", 1, "--iterations", 4, "--save-every", 2, "--max-loss", 0, "--video", film)
    assert run("dream", PICTURES / "cat.jpg", out, *options).exit_code == 0
    written = ["dream.png", "dream_0002.jpg", "dream_0004.jpg", "film.webp"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    with Image.open(film) as frames:
        assert frames.n_frames == 3


def test_transfer_writes_the_result(run, tmp_path):
    out = tmp_path / "t.jpg"
    assert (
        run("transfer", PICTURES / "pagoda.jpg", PICTURES / "cat.jpg", out, "--size", 80, "--steps", 2).exit_code == 0
    )
    assert images.read(out).shape[1] == 80


def test_transfer_takes_several_paintings(run, tmp_path):
    out, options = tmp_path / "t.jpg", ("--size", 80, "--steps", 2, "--style-weights", "1,2", "--max-seconds", 60)
    assert (
        run("transfer", PICTURES / "pagoda.jpg", PICTURES / "cat.jpg", PICTURES / "pagoda.jpg", out, *options).exit_code
        == 0
    )


def test_models_and_health_answer(run):
    assert "stylize" in run("models").stdout
    assert run("health").exit_code == 0


def test_health_of_no_server_is_exit_status_1():
    assert runner.invoke(cli, ["health", "--address", "127.0.0.1:9"]).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("stylize", "absent.jpg", "out.png"),
        ("stylize", PICTURES / "cat.jpg", "out.gif"),
        ("dream", "absent.jpg", "out.png"),
        ("dream", PICTURES / "cat.jpg", "out.png", "--video", "film.mp4"),
    ],
)
def test_a_missing_file_or_unknown_ending_is_a_usage_error(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "command", [["train", "lm"], ["train", "style"], ["train", "features"], ["export"], ["serve"], ["demo"]]
)
def test_every_command_explains_itself(command):
    assert runner.invoke(cli, [*command, "--help"]).exit_code == 0
