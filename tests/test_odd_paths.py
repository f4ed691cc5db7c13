"""A clone, a repository, and the files that people name may have paths of any characters that a file system takes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from requirements.paths import paths
from serving.triton import folder, installation
from serving.triton.address import ListenAddress
from serving.triton.folder import ServerFolder
from tests.conftest import PICTURES, PROJECT

ODD = "a b  ä'\"%d$HOME`;&(*[日\\"
NO_TEXT = os.fsdecode(b"\xff\xfe")
"""What is no UTF-8."""
OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "ARGS"}
"""What the make that may run these tests leaves to those that they run."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The code in a folder with an odd name, the environment of these tests linked, and two small models."""
    place = tmp_path_factory.mktemp("odd") / ODD
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for name in (
        "reverie",
        "export",
        "registry",
        "serving",
        "synthesis",
        "imaging",
        "language",
        "training",
        "requirements",
        "clients",
    ):
        shutil.copytree(PROJECT / name, place / name, ignore=ignored)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(PROJECT / name, place)
    (place / ".venv").symlink_to(Path(sys.prefix))
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, place / "model_repository" / model)
    return place


def make(clone: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Run make there; what is installed is up to date."""
    installed = [f"--assume-old=.venv/.{name}" for name in ("runtime", "dev", "eval", "bench")]
    return subprocess.Popen(
        ["make", *installed, *arguments],
        cwd=clone,
        env={name: value for name, value in os.environ.items() if name not in OF_MAKE} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(scope="module")
def serving(clone, tmp_path_factory) -> Iterator[str]:
    """The address of `make serve` there, for a user whose own folders have odd names too, and whose locale is C."""
    odd = tmp_path_factory.mktemp("user") / ODD
    for name in ("cache", "tmp"):
        (odd / name).mkdir(parents=True)
    address = ListenAddress.free()
    ports = " ".join(f"--{p}-port={getattr(address, f'{p}_port')}" for p in ("grpc", "http", "metrics"))
    environment = {"XDG_CACHE_HOME": str(odd / "cache"), "TMPDIR": str(odd / "tmp"), "LC_ALL": "C"}
    process = make(clone, "serve", f"ARGS={ports}", **environment)
    try:
        while line := process.stdout.readline():
            if line.startswith("ready"):
                break
        assert line.startswith("ready: gRPC")
        yield address.grpc
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGINT)
        process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ODD, "film %04d", "a:b", "-x", NO_TEXT])
def test_a_clone_with_an_odd_name_serves_and_its_commands_read_and_write_odd_names(clone, serving, name):
    (clone / "in").mkdir(exist_ok=True)
    shutil.copy(PICTURES / "cat.jpg", clone / "in" / f"{name}.jpg")
    command = [".venv/bin/python", "-m", "reverie", "stylize", "--size", "64", "--address", serving, "--"]
    done = subprocess.run([*command, f"in/{name}.jpg", f"{name}.png"], cwd=clone, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (clone / f"{name}.png").stat().st_size > 1000


def test_the_script_of_the_command_runs_from_a_folder_with_an_odd_name(clone, tmp_path):
    environment = tmp_path / ODD / "bin"
    environment.mkdir(parents=True)
    script = shutil.copy(PROJECT / "requirements" / "reverie.sh", environment / "reverie")
    (environment / "python").write_text('#!/bin/sh\nprintf "%s|" "$@"')
    for file in environment.iterdir():
        file.chmod(0o755)
    assert subprocess.run([script, "a b", "ä"], capture_output=True, text=True).stdout == "-m|reverie|a b|ä|"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train-lm", "DATA=my 'texts' $a"], "train|lm|--data|my 'texts' $a"),
        (["train-lm", "PRESET=book", "ARGS=--steps 3"], "train|lm|--preset|book|--steps|3"),
        (["train-style", "STYLES=my painting.jpg", "CONTENT=a b"], "train|style|--style|my painting.jpg|--content|a b"),
        (["train-style", "STYLES=my painting.jpg b.jpg"], "train|style|--style|my painting.jpg|--style|b.jpg"),
        (["train-style", "STYLES='my painting.jpg' b.jpg"], "train|style|--style|my painting.jpg|--style|b.jpg"),
        (["train-style", "STYLES=it's \"1\".jpg b.jpg"], "train|style|--style|it's \"1\".jpg|--style|b.jpg"),
        (["train-style", "STYLES=c.jpg b.jpg"], "train|style|--style|c.jpg|--style|b.jpg"),
        (["train-style", "ARGS=--run runs/a"], "train|style|--run|runs/a"),
        (["add-style", "STYLE=it's.jpg", "NAME=a b", "RUN=r s"], "train|add-style|--style|it's.jpg|--name|a b|--from|r s"),
        (
            ["eval-style", "STYLES=my painting.jpg", "AGAINST=5 a b", "CLASSIFIER=~/my c"],
            "eval|style|--style|my painting.jpg|--against|5|--against|a b|--classifier|HOME/my c",
        ),
        (["export", "RUN=runs/ä %"], "export|--run|runs/ä %"),
    ],
)  # fmt: skip
def test_make_passes_paths_on_as_they_are(clone, tmp_path, command, expected):
    for name in ("my painting.jpg", "b.jpg", 'it\'s "1".jpg', "a b"):
        (clone / name).touch()
    shown = tmp_path / "show"
    shown.write_text('#!/bin/sh\nprintf "%s|" "$@" >&2\nprintf "%s|" "$@"')
    shown.chmod(0o755)
    process = make(clone, "--silent", *command, f"REVERIE={shown}")
    assert process.communicate()[0] == expected.replace("HOME", os.environ["HOME"]) + "|"


def test_words_that_are_no_files_are_a_path_each_and_an_open_quote_is_a_character(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths("a b  c") == ["a", "b", "c"]
    assert paths("it's") == ["it's"]
    assert paths("") == []


def test_the_server_lies_where_a_path_is_plain(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ODD))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ODD))
    user = os.geteuid()
    assert folder.places() == [Path(f"/var/tmp/reverie-{user}"), Path(f"/tmp/reverie-{user}")]


@pytest.mark.slow
def test_a_link_to_an_odd_path_is_put_back_and_a_plain_path_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = ServerFolder.create(installation.wheel())
    try:
        (tmp_path / ODD).mkdir()
        link = made.plain(tmp_path / ODD, "odd")
        shutil.rmtree(made.path)
        made.restore()
        assert link.resolve() == tmp_path / ODD
        assert made.plain(tmp_path, "plain") == tmp_path
    finally:
        made.remove()
