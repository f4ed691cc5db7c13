"""What an app installs: the client's wheel, and nothing of a server."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FOREIGN = {"tensorflow", "keras", "nvidia-pytriton", "pydantic", "onnx", "onnxruntime", "scipy", "pillow", "reverie"}
OWN = {"reverie-client", "grpcio", "protobuf", "numpy", "tritonclient"}
LARGEST_MB = 160
"""Of all that is installed; NumPy and gRPC are most of it."""
SCRIPT = """
import importlib.metadata, json, os, sys
import reverie_client
from reverie_client import AsyncClient, Client
with Client() as client:
    assert client.health(timeout=0.01).live in (True, False)
folder = os.path.dirname(os.path.dirname(reverie_client.__file__))
files = [os.path.join(at, f) for at, _, names in os.walk(folder) for f in names]
print(json.dumps({
    "installed": sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions()),
    "imported": sorted({name.split(".")[0] for name in sys.modules}),
    "typed": os.path.exists(os.path.join(os.path.dirname(reverie_client.__file__), "py.typed")),
    "megabytes": sum(os.path.getsize(file) for file in files if "__pycache__" not in file) / 1e6,
}))
"""


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, so that no build folder is left beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard", "."], cwd=PROJECT / "clients/python", text=True
    )
    for name in listed.splitlines():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PROJECT / "clients/python" / name).read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_types_and_its_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    sources = {f"reverie_client/{path.name}" for path in (PROJECT / "clients/python/reverie_client").glob("*.py")}
    assert {name for name in names if not name.partition("/")[0].endswith(".dist-info")} == sources | {
        "reverie_client/py.typed"
    }
    for line in ("Name: reverie-client", "License-Expression: Apache-2.0", "Requires-Python: >=3.9"):
        assert line in metadata.splitlines()
    assert "# reverie-client" in metadata


@pytest.mark.slow
def test_an_empty_environment_gets_the_client_and_no_server(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip("--python", python, "install", "--no-compile", wheel)
    found = json.loads(subprocess.check_output([str(python), "-c", SCRIPT], cwd=tmp_path, text=True))
    assert set(found["installed"]) >= OWN
    assert not FOREIGN & set(found["installed"])
    assert not {"tensorflow", "pytriton", "pydantic", "tritonserver"} & set(found["imported"])
    assert found["typed"]
    assert found["megabytes"] < LARGEST_MB
