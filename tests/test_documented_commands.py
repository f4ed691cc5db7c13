"""Every command that the documents name starts: the commands of `reverie`, make's targets, modules, TensorBoard."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer

from registry import configuration
from registry.cli import ModelName
from reverie.cli import cli
from tests.conftest import PROJECT

DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "SECURITY.md",
    PROJECT / "deploy" / "README.md",
    PROJECT / "synthesis" / "weights" / "README.md",
    *PROJECT.glob("docs/*.md"),
]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)
_LINE = re.compile(r"^ {4}(?:\.venv/bin/)?(reverie|make|tensorboard|python) (.*)$", re.MULTILINE)
_INLINE = re.compile(r"`(?:\.venv/bin/)?(reverie|make|tensorboard|python) ([^`]*)`")


def documented(program: str) -> list[str]:
    """The arguments that the documents give `program`, without comments, each once."""
    found = [(name, rest) for pattern in (_LINE, _INLINE) for name, rest in pattern.findall(TEXT)]
    lines = (re.sub(r"\s+#.*", "", rest.replace("\n", " ")) for name, rest in found if name == program)
    return sorted({line.strip() for line in lines})


COMMAND = typer.main.get_command(cli)


def below(command: Any) -> dict[str, Any]:
    """The commands of a group, by name."""
    return getattr(command, "commands", {})


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first of `words` name, and the words that are left."""
    command = COMMAND
    while words and words[0] in below(command):
        command, words = below(command)[words[0]], words[1:]
    return command, words


def is_open(words: list[str]) -> bool:
    """Whether something is left out, or stands for another word."""
    return any("..." in word or word.isupper() for word in words) or all(word.startswith("-") for word in words[:1])


@pytest.mark.parametrize("line", documented("reverie"))
def test_a_command_of_the_documents_takes_what_they_give_it(line):
    command, words = command_of(shlex.split(line))
    assert command.name or line == "", f"there is no command {line!r}"
    options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}
    if words and not is_open(words):
        command.make_context("reverie", list(words), resilient_parsing=False)


VERSIONED = ("adopt", "canary", "history", "list", "promote", "restore", "rollback", "verify")


def test_commands_about_a_model_s_versions_take_the_model_first_and_then_the_version():
    models = below(below(typer.main.get_command(cli))["models"])
    assert set(models) == {*VERSIONED, "push", "pull"}
    for name in VERSIONED:
        arguments = [p.name for p in models[name].params if p.param_type_name == "argument"]
        assert arguments == ["model", "version"][: len(arguments)] != [], name
    assert {model.value for model in ModelName} == set(configuration.EXPORTED)


def all_commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [path, *(found for name, sub in below(command).items() for found in all_commands(sub, (*path, name)))]


@pytest.mark.parametrize("command", all_commands(COMMAND), ids=" ".join)
def test_every_command_says_what_it_is_for(command):
    with pytest.raises(SystemExit) as ended:
        COMMAND.main([*command, "--help"], prog_name="reverie")
    assert not ended.value.code


TARGETS = sorted(set(re.findall(r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE)))


def dry_run(*words: str) -> subprocess.CompletedProcess:
    installed = [f"--assume-old=.venv/.{name}" for name in ("runtime", "dev", "eval", "bench", "fuzz")]
    return subprocess.run(["make", "--dry-run", *installed, *words], cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize("line", documented("make"))
def test_a_target_of_the_documents_exists(line):
    words = shlex.split(line)
    done = dry_run(*words)
    assert done.returncode == 0, done.stderr
    assert words[0] in TARGETS


def test_every_target_is_one_of_the_documents():
    assert set(TARGETS) - {"help"} == {shlex.split(line)[0] for line in documented("make")}


SHOW_HELP = """
import runpy, sys
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code, (module, ended.code)
    except ModuleNotFoundError as error:  # What only `make bench-text` or `make fuzz-parsers` installs.
        assert error.name in ("atheris", "ctranslate2", "openvino"), (module, error)
"""


def modules() -> list[str]:
    """That make's targets and the documents run."""
    targets = dry_run(*[t for t in TARGETS if t != "help"], "A=a:1", "B=b:1", "STYLES=a", "STYLE=a", "ARGS=").stdout
    found = set(re.findall(r"python -m ([\w.]+)", targets + TEXT))
    return sorted(found - {"pip", "pytest", "ruff", "mypy", "venv", "reverie"})


@pytest.mark.slow
def test_the_modules_that_make_and_the_documents_run_say_what_they_are_for():
    found = modules()
    assert {"loadtests.run", "loadtests.fuzz.run", "benchmarks.text", "serving.text.parameters"} <= set(found)
    for some in ([m for m in found if m.startswith("loadtests")], [m for m in found if not m.startswith("loadtests")]):
        command = [sys.executable, "-c", SHOW_HELP, *some]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


def test_tensorboard_starts_on_a_folder_of_runs(tmp_path):
    assert documented("tensorboard") == ["--logdir runs"]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path),
        "--port",
        "0",
        "--host",
        "127.0.0.1",
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=PROJECT) as process:
        try:
            said = ""
            while (line := process.stderr.readline()) and not (found := re.search(r"at (http://\S+)", line)):
                said += line
            assert line, said
            with urllib.request.urlopen(f"{found[1].rstrip('/')}/data/environment", timeout=20) as answer:
                assert str(tmp_path) in answer.read().decode()
        finally:
            process.terminate()


def test_the_documents_are_there():
    assert len(documented("reverie")) > 40
    assert len(documented("make")) > 25
    assert all(isinstance(path, Path) for path in DOCUMENTS)
