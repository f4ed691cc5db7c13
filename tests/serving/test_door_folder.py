"""Folders of doors: a user's own, and none is left of a door that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

from serving.door.folder import make_folder, remove_folder
from serving.triton.server import PROJECT


def test_the_folder_of_a_killed_door_is_removed_by_the_next_and_a_living_one_s_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = "from serving.door.folder import make_folder; print(make_folder(), flush=True); input()"
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=PROJECT, **pipes) as living:
        theirs = tmp_path / living.stdout.readline().strip()
        with subprocess.Popen(command, text=True, cwd=PROJECT, **pipes) as killed:
            left = tmp_path / killed.stdout.readline().strip()
            killed.send_signal(signal.SIGKILL)
        assert left.exists()
        ours = make_folder()
        assert ours.stat().st_mode & 0o077 == 0
        assert not left.exists() and theirs.exists()
        living.stdin.write("\n")
    remove_folder(ours)
    assert not ours.exists()
