"""Whatever the machine, the files or the arguments do: a sentence and status 1, not a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import grpc
import pytest
from reverie_client import errors

from language.vocabulary import Vocabulary
from reverie import cli, failures
from reverie.errors import InputError
from tests.conftest import PROJECT


@pytest.fixture
def told(monkeypatch, capsys):
    """Runs the command line with a command that raises; gives the status and what stderr had."""

    def tell(error: BaseException) -> tuple[int, str]:
        def command(**_):
            raise error

        monkeypatch.setattr(cli, "cli", command)
        with pytest.raises(SystemExit) as ended:
            cli.app()
        return ended.value.code, capsys.readouterr().err

    return tell


SYSTEM = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "run/a.npz"), "run/a.npz: No space left on device"),
    "another disk": (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device"),
    "nameless": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    "without a number": (OSError("Unable to open file (truncated file)"), "Unable to open file (truncated file)"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "a.png"), "a.png: Permission denied"),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory", b"x.txt"), "x.txt: Is a directory"),
    "descriptors": (OSError(errno.EMFILE, "Too many open files", 3), "Too many open files"),
    "cut gzip": (EOFError("Compressed file ended"), "a file is cut off or damaged (Compressed file ended)"),
    "tar": (tarfile.ReadError("unexpected end of data"), "cut off or damaged (unexpected end of data)"),
    "zip": (zipfile.BadZipFile("File is not a zip file"), "cut off or damaged (File is not a zip file)"),
    "deflate": (zlib.error("Error -3"), "cut off or damaged (Error -3)"),
    "memory": (MemoryError(), "too little memory"),
    "ours": (InputError("size: 0; accepted: 16"), "size: 0; accepted: 16"),
    "client": (errors.of_status(grpc.StatusCode.UNAVAILABLE, "the queue is full"), "UNAVAILABLE: the queue is full"),
    "client's own": (errors.SecurityError("the key is too long"), "error: the key is too long"),
    "of a caller's program": (type("Mine", (InputError,), {"__module__": "elsewhere"})("step: 0"), "step: 0"),
}


@pytest.mark.parametrize("name", SYSTEM)
def test_what_the_machine_does_is_one_sentence_and_status_1(told, name):
    error, sentence = SYSTEM[name]
    status, said = told(error)
    assert status == 1
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_the_client_is_not_imported_to_tell_of_an_error():
    told = "import sys; from reverie import failures; print(failures.describe(KeyError()), 'reverie_client' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", told], cwd=PROJECT, text=True) == "None False\n"


def test_a_fault_of_our_code_with_a_base_of_python_s_own_is_a_traceback():
    fault = type("Fault", (Exception,), {"__module__": "serving.text.engine"})
    assert failures.describe(fault("state")) is None


def test_text_that_is_not_utf_8_is_a_sentence(told):
    try:
        "\udcff".encode()
    except UnicodeError as error:
        status, said = told(error)
    assert status == 1
    assert "accepted: UTF-8" in said


def test_a_value_that_we_refuse_is_a_sentence_and_a_fault_of_the_program_a_traceback(told, monkeypatch):
    try:
        Vocabulary(["a"])
    except ValueError as error:
        assert told(error) == (1, "error: a vocabulary starts with '' and '[UNK]', not with ['a']\n")
    for fault in (ValueError("no raise of ours"), TypeError("x"), KeyError("y")):
        with pytest.raises(type(fault)):
            failures.tell(fault)
    monkeypatch.setenv(failures.TRACEBACK_VARIABLE, "1")
    with pytest.raises(OSError, match="full"):
        failures.tell(OSError(errno.ENOSPC, "full"))


def reverie(*arguments: str | bytes, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "reverie", *arguments], cwd=PROJECT, **options)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_output_that_cannot_be_written_is_status_1_without_a_traceback(to):
    with Path("/dev/full").open("w") as full:
        other = "stderr" if to == "stdout" else "stdout"
        command = ["health", "--address", "127.0.0.1:9", *(["--no-such-option"] if to == "stderr" else [])]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = reverie(*command, **{to: full, other: subprocess.PIPE}, text=True, env=environment)
    assert done.returncode == 1
    if to == "stdout":
        assert done.stderr in (f"error: {of}No space left on device\n" for of in ("", "standard output: "))


@pytest.mark.slow
def test_arguments_that_are_not_utf_8_are_refused_in_a_sentence_or_taken(tmp_path):
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = reverie("generate", b"caf\xe9", "--address", "127.0.0.1:9", capture_output=True, env=environment)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"UTF-8" in done.stderr
    done = reverie("inspect", os.fsencode(tmp_path) + b"/\xff.png", capture_output=True, env=environment)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"there is no such file" in done.stderr
