"""Folders of doors: a user's own, and none is left of a door that was killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from serving.door import folder as folders
from serving.door.errors import DoorError
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


@pytest.mark.parametrize("name", ["a" * 90, "日", "\udcff"])
def test_a_socket_has_room_whatever_the_user_s_own_folder_is_called(tmp_path, monkeypatch, name):
    """Linux takes no longer path than 107 bytes for a socket, and gRPC no odd one."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    folder = make_folder()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "gateway.sock"))
        assert str(folder).isascii()
    finally:
        remove_folder(folder)


def test_where_no_place_is_left_the_message_says_what_one_has_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(folders, "_PLACES", ())
    with pytest.raises(DoorError, match="set TMPDIR to one that is"):
        make_folder()
