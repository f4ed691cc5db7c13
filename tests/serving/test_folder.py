"""The folder that Triton reads while it runs: it can be lost, and what dead servers left is removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reverie import outputs
from serving.triton import folder, installation
from serving.triton.folder import ServerFolder
from serving.triton.server import PROJECT


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache and the temporary folder, both of the test's own; returns the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "cache"


@pytest.fixture
def server_folder(cache):
    made = ServerFolder.create(installation.wheel())
    yield made
    made.remove()


def files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_it_lies_in_the_users_cache_and_holds_the_stub_of_this_python(server_folder, cache):
    assert server_folder.path.parent == cache / "reverie"
    stub = server_folder.backends / "python" / "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"exec {installation.wheel() / 'python_backend_stubs' / version / stub.name} " in stub.read_text()
    assert os.access(stub, os.X_OK)


@pytest.mark.parametrize("lost", ["", "backends", "backends/python/triton_python_backend_stub"])
def test_whatever_is_removed_is_put_back_and_is_locked(server_folder, lost):
    before = files(server_folder.path)
    gone = server_folder.path / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    server_folder.restore()
    assert files(server_folder.path) == before
    os.utime(server_folder.path, (0, 0))
    folder.sweep()
    assert files(server_folder.path) == before


@pytest.mark.parametrize("link", [os.link, None])
def test_files_of_another_file_system_are_copied(cache, monkeypatch, link):
    def cross_device(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(folder.os, "link", link or cross_device)
    made = ServerFolder.create(installation.wheel())
    assert "backends/onnxruntime/model.py" in files(made.path)
    assert not [name for name in files(made.path) if name.endswith(".tmp")]
    made.remove()
    assert not made.path.exists()


def test_what_cannot_be_put_back_is_an_error_of_the_file_system(server_folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (server_folder.backends / "python" / "triton_python_backend_stub").unlink()
    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\)"):
        server_folder.restore()


def test_where_the_cache_cannot_be_written_the_temporary_folder_takes_its_place(cache):
    cache.write_text("no folder")
    made = ServerFolder.create(installation.wheel())
    assert made.path.parent == cache.parent / "tmp" / "reverie"
    made.remove()


def test_where_nothing_can_be_written_the_error_says_so(cache):
    for place in (cache, cache.parent / "tmp"):
        place.write_text("no folder")
    with pytest.raises(OSError, match="tmp"):
        ServerFolder.create(installation.wheel())


def test_what_a_killed_server_left_is_removed_and_what_a_living_one_has_stays(server_folder, cache):
    dead = server_left_by_a_killed_process()
    regions = {path: Path("/dev/shm", f"{prefix}0") for path, prefix in (dead, living(server_folder))}
    for path, region in regions.items():
        region.write_bytes(b"region")
        os.utime(path, (0, 0))
    folder.sweep()
    assert not dead[0].exists()
    assert server_folder.path.exists()
    assert [region.exists() for region in regions.values()] == [False, True]
    server_folder.remove()
    assert not regions[server_folder.path].exists()


def living(server: ServerFolder) -> tuple[Path, str]:
    return server.path, server.shared_memory_prefix


def server_left_by_a_killed_process() -> tuple[Path, str]:
    """A folder and its prefix in shared memory."""
    program = (
        "import os, signal\n"
        "from serving.triton.folder import ServerFolder\n"
        "from serving.triton import installation\n"
        "made = ServerFolder.create(installation.wheel())\n"
        "print(made.path, made.shared_memory_prefix, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    path, prefix = done.stdout.split()
    return Path(path), prefix
