"""`AsyncClient` is made from `Client`, so that neither is a second implementation of the other."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest
from reverie_client import AsyncClient, AsyncStream, Client, Stream
from reverie_client.admin import Admin
from reverie_client.aio_admin import AsyncAdmin

from tests.conftest import PROJECT

CLIENT = PROJECT / "clients" / "python"
STREAMS = {"generate", "dream", "transfer", "stream"}
TWINS = [(Client, AsyncClient), (Admin, AsyncAdmin), (Stream, AsyncStream)]


def methods(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def test_the_asyncio_files_are_those_that_make_aio_makes():
    code = "import make_aio as m; print([(m.PACKAGE / t).read_text() == m.twin((m.PACKAGE / s).read_text(), s) for s, t in m.TWINS.items()])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CLIENT, capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True]\n", "change client.py or admin.py, then run clients/python/make_aio.py"


@pytest.mark.parametrize(("sync", "other"), TWINS)
def test_twins_have_the_same_methods_with_the_same_arguments(sync, other):
    assert methods(sync).keys() == methods(other).keys()
    for name, method in methods(sync).items():
        assert inspect.signature(method).parameters.keys() == inspect.signature(methods(other)[name]).parameters.keys()


def test_what_waits_is_a_coroutine_and_streams_are_returned_at_once():
    waiting = {name for name, method in methods(AsyncClient).items() if inspect.iscoroutinefunction(method)}
    assert waiting == methods(AsyncClient).keys() - STREAMS


@pytest.mark.parametrize("path", sorted((CLIENT / "reverie_client").glob("*.py")), ids=lambda path: path.name)
def test_the_package_imports_nothing_of_the_toolkit_and_only_what_it_depends_on(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found - sys.stdlib_module_names <= {"reverie_client", "grpc", "google", "numpy", "tritonclient"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_has_at_most_twelve_public_methods(kind):
    assert len(methods(kind)) <= 12
