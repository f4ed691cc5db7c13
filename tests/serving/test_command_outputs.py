"""Commands look at their outputs before they work, and leave earlier results as they were until new ones are whole.

No server runs here: where one is called, the call is answered by a function.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import av
import grpc
import numpy as np
import pytest
from reverie_client import Client, PictureStep, ReverieError
from typer.testing import CliRunner

from imaging import images
from reverie.cli import cli
from reverie.outputs import OutputError
from tests.conftest import PICTURES

NOBODY = "127.0.0.1:9"
"""Where no server is: a command that calls one fails with another status than 2."""


def run(*arguments: object):
    return CliRunner().invoke(cli, [*map(str, arguments), "--address", NOBODY])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two pictures, a film of 12 frames and a folder of 12 frames."""
    shutil.copy(PICTURES / "cat.jpg", tmp_path / "cat.jpg")
    shutil.copy(PICTURES / "pagoda.jpg", tmp_path / "pagoda.jpg")
    (tmp_path / "frames").mkdir()
    frames = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(12)]
    with av.open(str(tmp_path / "film.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i, frame in enumerate(frames):
            (tmp_path / "frames" / f"{i}.png").write_bytes(images.encode(frame))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRANSFER = ("transfer", "cat.jpg", "pagoda.jpg")


@pytest.mark.parametrize(
    "arguments",
    [
        ("stylize", "cat.jpg", "cat.jpg"),
        ("stylize", "cat.jpg", "missing/../cat.jpg"),
        ("stylize", "film.mp4", "./film.mp4"),
        ("stylize", "film.mp4", "hard.mp4"),
        ("stylize", "film.mp4", "link.mp4"),
        ("stylize", "link.mp4", "film.mp4"),
        ("stylize", "frames", "frames/"),
        ("stylize", "frames", "link"),
        ("dream", "cat.jpg", "link.jpg"),
        ("dream", "pagoda.jpg", "a.jpg", "--guide", "cat.jpg", "--video", "link.webp"),
        ("dream", "a_0010.jpg", "a.jpg", "--save-every", "5"),
        ("dream", "a_frame_0001.jpg", "a.jpg", "--frames", "5"),
        (*TRANSFER, "pagoda.jpg"),
        (*TRANSFER, "a.jpg", "--mask", "mask.png", "--video", "mask.png"),
    ],
)
def test_a_source_is_never_overwritten_under_whatever_name(folder, arguments):
    for link, to in (("link.mp4", "film.mp4"), ("link", "frames"), ("link.jpg", "cat.jpg"), ("link.webp", "cat.jpg")):
        (folder / link).symlink_to(to)
    os.link(folder / "film.mp4", folder / "hard.mp4")
    for name in ("a_0010.jpg", "a_frame_0001.jpg", "mask.png"):
        shutil.copy(PICTURES / "cat.jpg", folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert "which is read" in " ".join(result.output.replace("│", " ").split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("stylize", "cat.jpg", "absent/a.jpg"),
        ("stylize", "film.mp4", "absent/a.mp4"),
        ("stylize", "film.mp4", "/proc/self/a.mp4"),
        ("stylize", "frames", "/proc/self/frames"),
        ("stylize", "frames", "cat.jpg"),
        ("dream", "cat.jpg", "absent/a.png"),
        ("dream", "cat.jpg", "taken.png"),
        ("dream", "cat.jpg", "a.png", "--video", "absent/film.webp"),
        ("dream", "cat.jpg", "a.webp", "--video", "./a.webp"),
        (*TRANSFER, "absent/a.png"),
        (*TRANSFER, "a.png", "--video", "absent/film.gif"),
        (*TRANSFER, f"{'x' * 248}.png", "--save-every", "5"),  # Its previews' names would be too long.
        ("dream", "cat.jpg", "a.png", "--guide", "absent.jpg"),
        (*TRANSFER, "a.png", "--mask", "absent.png"),
    ],
)
def test_what_cannot_be_written_or_read_is_found_before_the_server_is_called(folder, arguments):
    (folder / "taken.png").mkdir()
    before = names(folder)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert names(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--out", "cat.jpg"),
        ("demo", "--out", "/proc/self/demo"),
        ("eval", "style", "--style", "cat.jpg", "--out", "cat.jpg"),
        ("canary", "style", "1", "--textfile", "absent/verdict.prom"),
    ],
)
def test_other_commands_find_it_before_their_work_too(folder, arguments):
    before = names(folder)
    assert isinstance(CliRunner().invoke(cli, arguments).exception, OutputError)
    assert names(folder) == before


def after_four(failure):
    """Answers four frames, then fails."""
    answered = []

    def stylize(client: Client, image: bytes, **_: object) -> bytes:
        answered.append(image)
        if len(answered) > 4:
            failure()
        return image

    return stylize


def fail() -> None:
    raise ReverieError(grpc.StatusCode.UNAVAILABLE, "gone")


def end(number: signal.Signals):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("source", ["film.mp4", "frames"])
@pytest.mark.parametrize("failure", [fail, end(signal.SIGINT), end(signal.SIGTERM), end(signal.SIGHUP)])
def test_a_run_that_ends_early_leaves_the_earlier_result_and_nothing_else(folder, monkeypatch, source, failure):
    target = "out.mp4" if source == "film.mp4" else "out"
    monkeypatch.setattr(Client, "stylize", lambda client, image, **_: image)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Whoever runs the tests may ignore them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert run("stylize", source, target).exit_code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for again in (target, f"new_{target}"):
        monkeypatch.setattr(Client, "stylize", after_four(failure))
        assert run("stylize", source, again).exit_code != 0
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert not (folder / f"new_{target}").exists()


@pytest.mark.parametrize("command", ["dream", "transfer"])
def test_a_stream_that_breaks_leaves_the_earlier_result(folder, monkeypatch, command):
    (folder / "out.jpg").write_text("earlier")
    (folder / "film.webp").write_text("earlier")
    preview = images.encode(np.zeros((32, 32, 3), np.uint8), "jpeg")

    class Breaking(contextlib.nullcontext):
        def __iter__(self):
            yield PictureStep(5, 10, 0, 1.0, 0.1, preview, False)
            fail()

    monkeypatch.setattr(Client, command, lambda *_, **__: Breaking())
    sources = ("cat.jpg",) if command == "dream" else ("cat.jpg", "pagoda.jpg")
    assert run(command, *sources, "out.jpg", "--save-every", 5, "--video", "film.webp").exit_code == 1
    assert (folder / "out.jpg").read_text() == (folder / "film.webp").read_text() == "earlier"
    assert (folder / "out_0005.jpg").read_bytes() == preview
    assert not list(folder.glob(".*"))
