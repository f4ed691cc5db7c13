"""What publishing does where the server that it should reach is not there, or does not answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry import publishing
from registry.publishing import PublishError
from registry.repository import Repository
from registry.rollout import Rollout
from reverie.cli import cli
from tests.export import tiny
from training.runs import Run

NOWHERE = "127.0.0.1:9"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With versions 1 and 2 of a style network, the second stable."""
    (tmp_path / "models").mkdir()
    found = Repository(tmp_path / "models")
    for shift in (1, 2):
        publishing.publish(tiny.stage(found, shift), found)
    return found


@pytest.fixture
def mute():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_listens_and_does_not_answer_ends_publishing_before_anything_is_written(
    repository, mute, monkeypatch
):
    monkeypatch.setattr("reverie_client.admin.Admin.check_live.__defaults__", (0.2,))
    staged = tiny.stage(repository, 3)
    with pytest.raises(PublishError, match=f"the server at {mute} does not answer, so nothing was changed"):
        publishing.publish(staged, repository, mute)
    assert repository.versions("style") == [1, 2]


def test_without_a_server_a_version_is_published_on_disk_and_says_so(repository):
    assert not publishing.publish(tiny.stage(repository, 3), repository, NOWHERE).served
    assert repository.versions("style") == [1, 2, 3]


@pytest.mark.parametrize(
    "command",
    [
        ("models", "promote", "style", "1"),
        ("models", "rollback", "style"),
        ("models", "canary", "style", "1", "--for", "1s"),
        ("export",),
    ],
)
def test_a_server_that_is_named_must_answer(repository, tmp_path, command, monkeypatch):
    monkeypatch.setattr(Run, "newest_finished", lambda *_: Run(tmp_path))
    arguments = [*command, "--repository", str(repository.path)]
    for named in ({}, {"REVERIE_ADDRESS": NOWHERE}):
        given = [] if named else ["--address", NOWHERE]
        result = CliRunner().invoke(cli, [*arguments, *given], env=named)
        assert isinstance(result.exception, PublishError)
        assert f"the server at {NOWHERE} does not answer" in str(result.exception)
    assert Rollout("style", repository).labels.stable == 2


def test_a_change_of_the_files_alone_is_a_warning(repository, monkeypatch):
    monkeypatch.setattr(publishing, "_listens", lambda address: False)
    monkeypatch.setattr("reverie_client.admin.Admin.check_live.__defaults__", (0.2,))
    result = CliRunner().invoke(cli, ["models", "rollback", "style", "--repository", str(repository.path)])
    assert result.exit_code == 0
    assert "warning: no server listens at 127.0.0.1:8001: only the files were changed" in result.stderr
