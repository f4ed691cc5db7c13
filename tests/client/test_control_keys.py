"""Random control keys of this machine's servers: found by their address, by their user alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from reverie_client import control_keys
from reverie_client.control_keys import ControlKeyFile
from reverie_client.credentials import SecurityError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A user who has a runtime folder and a cache."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def left() -> Iterator[ControlKeyFile]:
    """What a running server has left."""
    file = ControlKeyFile.write("127.0.0.1", 8001, "secret")
    yield file
    file.remove()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::]", "dns:///localhost", "ipv4:127.0.0.1"])
def test_a_key_is_found_under_every_spelling_of_this_machine(left, host):
    assert control_keys.find(f"{host}:8001") == "secret"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8002", "127.0.0.2:8001", "[::1]:8001", "192.168.1.5:8001", "example.org:8001", "x"]
)
def test_no_key_is_found_for_another_server(left, address):
    assert control_keys.find(address) is None


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::"])
def test_a_server_on_another_spelling_leaves_its_key_in_the_same_place(left, host):
    assert ControlKeyFile.write(host, 8001, "newer").path == left.path
    assert control_keys.find("127.0.0.1:8001") == "newer"
    left.remove()
    assert control_keys.find("127.0.0.1:8001") == "newer", "a server removed another's key"
    left.path.unlink()
    os.dup2(os.open(os.devnull, os.O_RDONLY), left.descriptor)  # For the fixture, which removes once more.


def test_two_servers_of_a_machine_have_a_key_each_and_take_only_their_own_away(left):
    second = ControlKeyFile.write("127.0.0.1", 9001, "other")
    assert (control_keys.find("localhost:8001"), control_keys.find("localhost:9001")) == ("secret", "other")
    second.remove()
    assert (control_keys.find("localhost:8001"), control_keys.find("localhost:9001")) == ("secret", None)


def test_only_its_user_can_read_it_whatever_the_umask(home):
    before = os.umask(0)
    try:
        file = ControlKeyFile.write("127.0.0.1", 8001, "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.path.is_relative_to(home / "run")
    file.remove()
    assert not list(file.path.parent.iterdir())


def test_what_a_killed_server_left_is_swept_away_and_what_a_running_one_left_is_not(left):
    killed = ControlKeyFile.write("127.0.0.1", 9001, "dead")
    os.close(killed.descriptor)  # As the kernel does for a process that is killed.
    half_written = killed.path.with_name(killed.path.name + ".new")
    half_written.write_text("dea")
    newcomer = ControlKeyFile.write("127.0.0.1", 9002, "alive")
    assert sorted(left.path.parent.iterdir()) == sorted([left.path, newcomer.path])
    newcomer.remove()


def test_a_service_without_a_runtime_folder_and_a_login_with_one_find_each_other(home, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    file = ControlKeyFile.write("127.0.0.1", 8001, "secret")
    assert file.path.is_relative_to(home / "cache")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    assert control_keys.find("localhost:8001") == "secret"
    file.remove()


@pytest.mark.parametrize("runtime", ["relative", "/nowhere/at/all"])
def test_a_runtime_folder_that_is_none_is_passed_over(home, monkeypatch, runtime):
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    file = ControlKeyFile.write("127.0.0.1", 8001, "secret")
    assert file.path.is_relative_to(home / "cache")
    file.remove()


def write() -> None:
    ControlKeyFile.write("127.0.0.1", 8001, "secret")


def test_a_folder_that_is_a_link_is_refused(home, left):
    elsewhere = home / "elsewhere"
    left.path.parent.rename(elsewhere)
    (home / "run" / "reverie").symlink_to(elsewhere)
    for act in (write, lambda: control_keys.find("localhost:8001")):
        with pytest.raises(SecurityError, match="is a link or a file"):
            act()


def test_a_folder_that_others_may_enter_is_refused(left):
    left.path.parent.chmod(0o755)
    for act in (write, lambda: control_keys.find("localhost:8001")):
        with pytest.raises(SecurityError, match="open to other users"):
            act()


def test_a_file_that_is_a_link_is_refused_and_never_followed_in_writing(home, left):
    treasure = home / "treasure"
    treasure.write_text("mine")
    left.path.unlink()
    left.path.symlink_to(treasure)
    with pytest.raises(SecurityError, match="cannot be read"):
        control_keys.find("localhost:8001")
    write()
    assert treasure.read_text() == "mine" and not left.path.is_symlink()


def test_a_file_that_others_may_read_or_that_is_a_pipe_is_refused(left):
    left.path.chmod(0o644)
    with pytest.raises(SecurityError, match="open to other users"):
        control_keys.find("localhost:8001")
    left.path.unlink()
    os.mkfifo(left.path, 0o600)
    with pytest.raises(SecurityError, match="no ordinary file"):
        control_keys.find("localhost:8001")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_belongs_to_somebody_else_is_refused(left, which):
    os.chown(left.path if which == "file" else left.path.parent, 12345, -1)
    with pytest.raises(SecurityError, match="belongs to user 12345"):
        control_keys.find("localhost:8001")
    if which == "folder":
        with pytest.raises(SecurityError, match="belongs to user 12345"):
            write()


def test_without_any_folder_the_error_says_what_to_do_instead(home, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    (home / "cache").write_text("a file where a folder should be")
    with pytest.raises(SecurityError, match="or set REVERIE_CONTROL_KEY"):
        write()
