"""The commands a person types, against the running server."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from imaging import images, provenance
from reverie.cli import cli
from reverie.prometheus import Snapshot
from serving import health_report
from tests.conftest import PICTURES, PROJECT

runner = CliRunner()


@pytest.fixture
def run(server):
    return lambda *arguments: runner.invoke(cli, [*map(str, arguments), "--address", server.address.grpc])


def test_stylize_writes_the_format_that_the_ending_names(run, tmp_path):
    for name in ("a.png", "a.jpg", "a.webp"):
        assert run("stylize", PICTURES / "cat.jpg", tmp_path / name, "--size", 128).exit_code == 0
        assert images.read(tmp_path / name).shape == (85, 128, 3)


def test_inspect_says_how_a_picture_was_made(run, tmp_path):
    painting = tmp_path / "painting.jpg"
    assert run("stylize", PICTURES / "cat.jpg", painting, "--size", 64, "--style", "wave").exit_code == 0
    said = runner.invoke(cli, ["inspect", str(painting)])
    assert said.exit_code == 0
    assert {"model: style", "style: wave", f"software: {provenance.SOFTWARE}"} <= set(said.stdout.splitlines())
    found = json.loads(runner.invoke(cli, ["inspect", "--json", str(painting)]).stdout)
    assert found["source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    version = max((PROJECT / "model_repository" / "style").glob("[0-9]*"), key=lambda p: int(p.name))
    assert found["version"] == version.name
    assert found["manifest_sha256"] == hashlib.sha256((version / "manifest.json").read_bytes()).hexdigest()
    assert found["parameters"]["size"] == 64


def test_inspect_of_a_picture_that_says_nothing_is_exit_status_1(run, tmp_path):
    painting = tmp_path / "painting.jpg"
    assert run("stylize", PICTURES / "cat.jpg", painting, "--size", 64, "--no-provenance").exit_code == 0
    for arguments, answer in (([], "does not say how it was made"), (["--json"], "null")):
        said = runner.invoke(cli, ["inspect", str(painting), *arguments])
        assert said.exit_code == 1
        assert answer in said.stdout


def test_inspect_sends_no_control_characters_to_a_terminal(tmp_path):
    strange = provenance.Provenance(model="\u009b31m\u202ered", style="a\nb")
    (tmp_path / "a.png").write_bytes(images.encode(np.zeros((16, 16, 3), np.uint8), packet=strange.packet()))
    lines = runner.invoke(cli, ["inspect", str(tmp_path / "a.png")]).stdout.splitlines()
    assert lines[:1] == ["model: \ufffd31m\ufffdred"]
    assert "style: a\ufffdb" in lines


def test_generate_prints_the_prompt_and_its_continuation(run):
    result = run("generate", "this movie", "--max-tokens", 5, "--seed", 1)
    assert result.exit_code == 0
    assert result.stdout.startswith("this movie ")


@pytest.mark.slow
def test_dream_writes_its_steps_and_the_result(run, tmp_path):
    out = tmp_path / "dream.png"
    film = tmp_path / "film.webp"
    options = ("--size", 160, "--num-octave", 1, "--iterations", 4, "--save-every", 2, "--max-loss", 0, "--video", film)
    assert run("dream", PICTURES / "cat.jpg", out, *options).exit_code == 0
    written = ["dream.png", "dream_0002.jpg", "dream_0004.jpg", "film.webp"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    with Image.open(film) as frames:
        assert frames.n_frames == 3
    assert [provenance.read(tmp_path / name).model for name in written] == ["deepdream"] * 4


@pytest.mark.slow
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


def test_health_tells_what_each_model_did_meanwhile_and_waits_for(run, server, photo):
    def text(ok: int, failed: int, slow: int, waiting: int) -> Snapshot:
        bucket = 'reverie_request_seconds_bucket{model="style",version="2",le='
        return Snapshot.read(
            "# TYPE reverie_requests_total counter\n"
            f'reverie_requests_total{{model="style",version="2",status="OK"}} {ok}\n'
            f'reverie_requests_total{{model="style",version="2",status="INTERNAL"}} {failed}\n'
            f'reverie_requests_total{{model="style",version="10",status="OK"}} 0\n'
            "# TYPE reverie_request_seconds histogram\n"
            f'{bucket}"0.1"}} 0\n{bucket}"0.2"}} {slow}\n{bucket}"+Inf"}} {slow}\n'
            "# TYPE reverie_in_flight gauge\n"
            f'reverie_in_flight{{model="style",version="2",state="waiting"}} {waiting}\n'
        )

    told = list(health_report.describe(text(10, 5, 10, 7), text(28, 7, 28, 3)))
    assert told == [
        "style version 2: 20 requests, 10.0% failed, p95 195 ms, 3 waiting",
        "style version 10: 0 requests, 0 waiting",
    ]
    done = run("health", "--metrics", server.address.metrics, "--seconds", "0.1")
    assert done.exit_code == 0
    assert "stylize version 1: 0 requests, 0 waiting" in done.output
    silent = run("health", "--metrics", "http://127.0.0.1:9/metrics", "--seconds", "0.1")
    assert silent.exit_code == 0
    assert "cannot be read" in silent.output


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
