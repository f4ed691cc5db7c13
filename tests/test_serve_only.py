"""The wheels, in an environment that has neither `training` nor `export`, serve, pull and list models.

The environment takes the packages of others from the one that runs the tests, which takes seconds instead of minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import boto3
import numpy
import pytest
from moto.server import ThreadedMotoServer

import reverie
from registry import bucket, publishing
from registry.bucket import Bucket
from registry.repository import Repository
from serving.triton.address import ListenAddress
from tests.conftest import PROJECT
from tests.export import tiny

pytestmark = [pytest.mark.slow, pytest.mark.service]

ROOMS = ("reverie", "training", "export", "registry", "serving", "synthesis", "imaging", "language", "loadtests")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with both wheels."""
    wheels, home = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("environment")
    build(wheels, tmp_path_factory.mktemp("sources"))
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    pip("install", "--no-index", "--no-deps", "--target", site, *wheels.iterdir())
    for room in ("training", "export"):
        shutil.rmtree(site / room)
    (site / "others.pth").write_text(str(Path(numpy.__file__).parents[1]))
    return home / "bin" / "python"


def build(wheels: Path, sources: Path) -> None:
    """Build both wheels from a copy, so that nothing is left among our files."""
    for room in (*ROOMS, "clients"):
        shutil.copytree(PROJECT / room, sources / room, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / file, sources)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", wheels, sources, sources / "clients" / "python")


def pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True, capture_output=True)


SAY_ALL = """
import json, sys
from typer.testing import CliRunner
from reverie.cli import cli
done = [CliRunner().invoke(cli, words, prog_name="reverie") for words in json.loads(sys.argv[1])]
print(json.dumps([[d.exit_code, d.output] for d in done]))
"""


def said(python: Path, *commands: Sequence[object]) -> list[str]:
    """What commands print, all in one process."""
    words = [[str(word) for word in command] for command in commands]
    ended = json.loads(run(python, json.dumps(words), program=("-c", SAY_ALL), COLUMNS="120"))
    assert {status for status, _ in ended} == {0}, ended
    return [output for _, output in ended]


def run(python: Path, *arguments: object, program: Sequence[str] = ("-m", "reverie"), **environment: str) -> str:
    """What a command of `reverie` prints, away from this repository's folder."""
    command = [str(python), *program, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=python.parent, env=clean(environment), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment


def test_the_commands_are_those_of_what_is_installed(python):
    helped, about_models, version = said(python, ["--help"], ["models", "--help"], ["--version"])
    commands = set(re.findall(r"^│ ([a-z]+)  ", helped, re.MULTILINE))
    assert {"serve", "models", "stylize", "generate", "health"} <= commands
    assert not commands & {"train", "eval", "export"}
    assert "restore" not in about_models
    assert version == f"reverie {reverie.__version__}\n"


def test_published_versions_are_listed_and_verified(python):
    models = PROJECT / "model_repository"
    newest = Repository(models).versions("style")[-1]
    listed, verified = said(
        python,
        ["models", "list", "language_model", "--repository", models],
        ["models", "verify", "style", newest, "--repository", models],
    )
    assert "language_model" in listed
    assert verified == f"style version {newest}: whole\n"


@pytest.fixture
def storage(monkeypatch) -> Iterator[str]:
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    yield f"http://{host}:{port}"
    server.stop()


def test_a_bucket_is_pulled(python, storage, tmp_path):
    (tmp_path / "here").mkdir()
    here = Repository(tmp_path / "here")
    publishing.publish(tiny.stage(here), here)
    boto3.client("s3").create_bucket(Bucket="models")
    list(bucket.push(here, Bucket.at("s3://models")))
    pulled = run(python, "models", "pull", "s3://models", "--repository", tmp_path / "there")
    assert "style: pulled (1 stable); new: 1" in pulled
    assert Repository(tmp_path / "there").versions("style") == [1]


@pytest.fixture
def served(python, tmp_path) -> Iterator[str]:
    """The address of a server that the installed command has started."""
    for name in ("language_model", "generate"):
        shutil.copytree(PROJECT / "model_repository" / name, tmp_path / "models" / name)
    address = ListenAddress.free()
    ports = [f"--{name}-port={getattr(address, f'{name}_port')}" for name in ("grpc", "http", "metrics")]
    command = [str(python), "-m", "reverie", "serve", "--repository", str(tmp_path / "models"), *ports]
    with subprocess.Popen(command, cwd=python.parent, env=clean({}), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("ready:") for line in process.stdout)
        yield address.grpc
        process.terminate()
        process.communicate(timeout=60)


def test_a_repository_is_served(python, served):
    assert run(python, "health", "--address", served) == f"{served} is ready\n"
    text = run(python, "generate", "This movie", "--max-tokens", 3, "--address", served)
    assert text.startswith("This movie") and len(text) > len("This movie\n")
