"""The key file and its commands: what is kept of a key, what is accepted, and that no change is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.door import keys
from serving.door.key_commands import KEYS_VARIABLE, default_path, keys_app
from serving.door.keys import Caller, KeyFile, KeyFileError, Quota, digest


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def run(file, monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, str(file.path))
    return lambda *arguments: CliRunner().invoke(keys_app, arguments, env={"COLUMNS": "200"})


def test_a_key_is_printed_once_and_kept_as_its_hash_in_a_file_of_its_user(file, run):
    added = run("add", "alice", "--quota", "20/s", "--streams", "8", "--models", "stylize, generate", "--body-mib", "3")
    key = added.stdout.strip()
    assert re.fullmatch(r"reverie_[\w-]{43}", key)
    assert key not in added.stderr
    text = file.path.read_text()
    assert key not in text
    assert key.removeprefix(keys.PREFIX) not in text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.callers()["alice"].model_dump(exclude={"created"}) == {
        "sha256": digest(key),
        "quota": "20/s",
        "streams": 8,
        "models": ("stylize", "generate"),
        "admin": False,
        "body_mib": 3,
    }


def test_a_key_file_stays_closed_whatever_the_umask_when_it_is_changed(file):
    before = os.umask(0)
    try:
        file.add("alice")
        file.add("bob")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.json"]


def test_the_list_says_what_each_key_opens_and_shows_neither_key_nor_hash(file, run):
    key = run("add", "alice", "--quota", "20/min", "--models", "stylize").stdout.strip()
    run("add", "root", "--admin")
    listed = run("list").stdout
    for said in ("alice", "20/min", "stylize", "root", "yes"):
        assert said in listed
    assert key not in listed
    assert digest(key)[:8] not in listed


def test_a_rotated_key_is_another_with_the_same_limits(file, run):
    first = run("add", "alice", "--quota", "20/s", "--admin").stdout.strip()
    second = run("rotate", "alice").stdout.strip()
    assert second != first
    alice = file.callers()["alice"]
    assert (alice.sha256, alice.quota, alice.admin) == (digest(second), "20/s", True)


def test_a_revoked_key_is_no_longer_in_the_file(file, run):
    run("add", "alice")
    run("add", "bob")
    assert run("revoke", "alice").exit_code == 0
    assert list(file.callers()) == ["bob"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "alice"), "alice has a key; accepted: another name"),
        (("revoke", "bob"), "'bob' has no key; those who have: alice"),
        (("rotate", "bob"), "'bob' has no key"),
        (("add", "bob", "--quota", ""), "quota ''; accepted"),
        (("add", "bob", "--models", ""), "name ''; accepted"),
        (("add", "bob", "--models", "a,,b"), "name ''; accepted"),
        (("add", "bob", "--streams", "-1"), "streams: -1"),
        (("add", "bob", "--streams", "10001"), "streams: 10001"),
        (("add", "bob", "--body-mib", "-1"), "body_mib: -1"),
    ],
)
def test_what_is_not_accepted_is_named_and_changes_nothing(file, run, arguments, said):
    run("add", "alice")
    before = file.path.read_bytes()
    refused = run(*arguments)
    assert refused.exit_code != 0
    assert said in str(refused.exception)
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "a b", "-x", ".x", "a/b", "ä", "a\n", "a" * 64, "a:b", "a,b", 'a"b'])
def test_a_name_that_a_header_or_a_metric_cannot_carry_is_refused(file, name):
    with pytest.raises(KeyFileError, match="accepted: 1 to 63 letters"):
        file.add(name)
    assert not file.path.exists()


@pytest.mark.parametrize(
    ("text", "calls", "seconds"),
    [
        ("20/s", 20, 1),
        ("20/min", 20, 60),
        ("20/m", 20, 60),
        (" 1 / Second ", 1, 1),
        ("1000000/h", 1_000_000, 3600),
        ("5/day", 5, 86400),
    ],
)
def test_a_quota_is_calls_in_a_time(text, calls, seconds):
    quota = Quota.parse(text)
    assert (quota.calls, quota.seconds) == (calls, seconds)
    assert Quota.parse(str(quota)) == quota


@pytest.mark.parametrize(
    "text",
    [
        "0/s",
        "-1/s",
        "1000001/s",
        "9" * 400 + "/s",
        "20",
        "20/",
        "/s",
        "20/week",
        "1.5/s",
        "20/s/s",
        "20s",
        "٣/s",
        "1e3/s",
    ],
)
def test_any_other_quota_is_refused_with_what_is_accepted(text):
    with pytest.raises(KeyFileError, match=r"accepted: 1 to 1000000 calls in one of s, min, h, day, as in 20/s"):
        Quota.parse(text)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("", "no JSON (EOF"),
        ('{"keys": {"a": {}}}', "sha256"),
        ('{"keys": {"a": {"sha256": "reverie_secret"}}}', "no SHA-256 of a key"),
        ('{"keys": {"a b": {"sha256": "HASH"}}}', "name 'a b'"),
        ('{"keys": {"a": {"sha256": "HASH", "quota": "0/s"}}}', "quota '0/s'"),
        ('{"keys": {"a": {"sha256": "HASH", "stream": 1}}}', "stream"),
        ('{"keys": {"a": {"sha256": "HASH", "admin": "yes"}}}', "admin"),
        ('{"keys": {"a": {"sha256": "HASH"}, "b": {"sha256": "HASH"}}}', "have the same key"),
        ("[]", "accepted"),
    ],
)
def test_a_key_file_written_by_hand_is_checked_and_shows_no_key_in_the_error(file, contents, said):
    file.path.write_text(contents.replace("HASH", "0" * 64))
    file.path.chmod(0o600)
    with pytest.raises(KeyFileError, match=re.escape(said)) as refused:
        file.callers()
    assert str(file.path) in str(refused.value)
    assert "reverie_secret" not in str(refused.value)


def test_there_are_at_most_a_thousand_keys_for_each_is_a_label_of_the_metrics(file, monkeypatch):
    monkeypatch.setattr(keys, "MOST_KEYS", 2)
    file.add("a")
    file.add("b")
    with pytest.raises(KeyFileError, match="at most 2 may be; revoke one"):
        file.add("c")


def test_a_key_file_that_others_may_write_is_not_believed(file):
    file.add("alice")
    file.path.chmod(0o620)
    with pytest.raises(KeyFileError, match="can be written by other users; close it with chmod go-w"):
        file.callers()


def test_a_pipe_in_the_place_of_the_key_file_is_refused_and_not_waited_for(file):
    os.mkfifo(file.path, 0o600)
    with pytest.raises(KeyFileError, match="no ordinary file"):
        file.callers()


def test_without_a_file_or_a_folder_the_message_says_what_to_do(file, tmp_path):
    with pytest.raises(KeyFileError, match="make one with: reverie keys add NAME"):
        file.callers()
    with pytest.raises(KeyFileError, match="make it first"):
        KeyFile(tmp_path / "nowhere" / "keys.json").add("alice")


def test_the_key_file_is_the_users_own_where_nobody_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert CliRunner().invoke(keys_app, ["add", "alice"]).exit_code == 0
    assert default_path() == tmp_path / "reverie" / "keys.json"
    assert list(KeyFile(default_path()).callers()) == ["alice"]
    assert stat.S_IMODE(default_path().parent.stat().st_mode) & 0o077 == 0


def _add_some(path: str, first: int) -> None:
    for number in range(first, first + 10):
        KeyFile(Path(path)).add(f"caller-{number}")


def test_no_key_is_lost_where_several_processes_add_keys_at_once(file):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_some, args=(str(file.path), first)) for first in (0, 10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(file.callers()) == {f"caller-{number}" for number in range(30)}


def test_a_caller_shows_no_hash_when_it_is_printed():
    assert "0" * 64 not in repr(Caller(sha256="0" * 64))


def test_unknown_fields_of_the_file_are_an_error_that_says_which_are_known(file):
    file.path.write_text(json.dumps({"keys": {"a": {"sha256": "0" * 64, "rate": 1}}}))
    file.path.chmod(0o600)
    with pytest.raises(
        KeyFileError, match="rate: unknown parameter; accepted: admin, body_mib, created, models, quota"
    ):
        file.callers()
