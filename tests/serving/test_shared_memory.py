"""A server with little shared memory, as Docker gives: it says so, and what never fits is refused as the caller's input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import grpc
import numpy as np
import pytest
from reverie_client import Client, ReverieError

from imaging import images
from loadtests.faults.served import can_isolate
from serving.triton import memory
from serving.triton.address import ListenAddress
from tests.conftest import PROJECT


def small(mib: int) -> list[str]:
    """Runs what follows with so much shared memory."""
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={mib}m shm /dev/shm && exec "$@"', "sh"]


@pytest.mark.slow
def test_a_picture_that_never_fits_is_refused_as_such_and_smaller_ones_are_answered(tmp_path):
    if not can_isolate():
        pytest.skip(
            "needs the right to mount a small /dev/shm of its own, which an unprivileged container does not give"
        )
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, tmp_path / "models" / model)
    address = ListenAddress.free()
    ports = [f"--{p}-port={getattr(address, f'{p}_port')}" for p in ("grpc", "http", "metrics")]
    command = [*small(40), sys.executable, "-m", "reverie", "serve", f"--repository={tmp_path / 'models'}", *ports]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=PROJECT, env=os.environ)
    try:
        assert process.stdout.readline().startswith("ready")
        assert "warning: /dev/shm has 40 MiB" in (tmp_path / "log").read_text()
        picture = images.encode(np.zeros((2048, 2048, 3), np.uint8), "jpeg")
        with Client(address.grpc, timeout=30) as client:
            with pytest.raises(ReverieError, match=r"too large for the server's shared memory.* 40 MiB") as error:
                client.stylize(picture, size=2048)
            assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
            assert client.stylize(picture, size=256)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_enough_shared_memory_is_no_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "ENOUGH_SHARED_MEMORY", 1)
    assert memory.shared_memory_warning(tmp_path) is None
    monkeypatch.setattr(memory, "ENOUGH_SHARED_MEMORY", 2**60)
    assert "--shm-size=2g" in memory.shared_memory_warning(tmp_path)
