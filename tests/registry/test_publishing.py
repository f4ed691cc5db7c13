"""Publishing without a server: whatever fails, what served before is what the repository serves."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry import manifest, publishing
from registry.cli import models_app
from registry.history import History
from registry.model_configuration import ModelConfiguration
from registry.publishing import PublishError
from registry.repository import Repository, RepositoryError
from registry.rollout import Rollout, SwitchError
from tests.export import tiny

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path) -> Repository:
    """A repository with one published version of `style`."""
    (tmp_path / "models").mkdir()
    found = Repository(tmp_path / "models")
    publishing.publish(tiny.stage(found), found)
    return found


def style(repository: Repository) -> Rollout:
    return Rollout("style", repository)


def state(repository: Repository) -> dict[str, bytes]:
    """Every file of the repository but its history."""
    files = (p for p in repository.path.rglob("*") if p.is_file() and p.suffix != ".jsonl")
    return {str(p.relative_to(repository.path)): p.read_bytes() for p in files}


def test_a_published_version_is_stable_and_its_predecessor_stays_for_a_rollback(repository):
    assert publishing.publish(tiny.stage(repository, 2), repository).version == 2
    assert dict(style(repository).labels.versions) == {"stable": 2, "previous": 1}
    assert "specific { versions: [ 1, 2 ] }" in (repository.path / "style" / "config.pbtxt").read_text()


def test_rollback_returns_and_stops_serving_the_newer_version(repository):
    publishing.publish(tiny.stage(repository, 2), repository)
    assert publishing.rollback(style(repository)) == 1
    assert dict(style(repository).labels.versions) == {"stable": 1}
    assert "specific { versions: [ 1 ] }" in (repository.path / "style" / "config.pbtxt").read_text()
    with pytest.raises(SwitchError, match=r"no version labeled previous.*there are: 1, 2"):
        publishing.rollback(style(repository))


@pytest.mark.parametrize(("published", "promoted", "back"), [(3, [1], 3), (3, [2, 1], 2), (3, [1, 3, 1], 3)])
def test_a_rollback_from_an_older_version_says_why_there_is_none_and_what_can_be_promoted(
    repository, published, promoted, back
):
    for version in range(2, published + 1):
        publishing.publish(tiny.stage(repository, version), repository)
    for version in promoted:
        publishing.promote(style(repository), version)
    there = ", ".join(map(str, range(1, published + 1)))
    expected = (
        f"version 1 took the place of version {back}, which is newer.*"
        f"'reverie models promote style {back}'; there are: {there}"
    )
    with pytest.raises(SwitchError, match=expected):
        publishing.rollback(style(repository))


def test_a_rollback_of_the_only_version_says_so(repository):
    with pytest.raises(SwitchError, match="no version labeled previous, and no other version; publish one"):
        publishing.rollback(style(repository))


def test_a_label_of_one_s_own_names_a_version_and_history_is_kept(repository):
    publishing.publish(tiny.stage(repository, 2), repository)
    publishing.promote(style(repository), 1, "museum")
    publishing.promote(style(repository), 1)
    assert style(repository).labels.of(1) == ["museum", "stable"]
    events = [(e["event"], e["version"], e["label"]) for e in History(repository.path).events("style")]
    assert events == [
        ("published", 1, "stable"),
        ("published", 2, "stable"),
        ("promoted", 1, "museum"),
        ("promoted", 1, "stable"),
    ]


@pytest.mark.parametrize(
    ("version", "label", "message"),
    [
        (9, "stable", "no version 9; it has 1"),
        (1, "candidate", "is set by publishing"),
        (1, "previous", "accepted"),
        (1, 'a"b', "accepted: a to z"),
    ],
)
def test_a_label_that_cannot_be_given_is_refused_with_what_can(repository, version, label, message):
    before = state(repository)
    with pytest.raises(SwitchError, match=message):
        publishing.promote(style(repository), version, label)
    assert state(repository) == before


def test_an_altered_version_is_not_promoted(repository):
    publishing.publish(tiny.stage(repository, 2), repository)
    graph = repository.folder("style", 1) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(manifest.ManifestError, match=r"model\.onnx was altered"):
        publishing.promote(style(repository), 1)


def test_old_versions_go_but_never_one_that_a_label_names(repository):
    publishing.promote(style(repository), 1, "museum")
    for shift in range(2, 6):
        published = publishing.publish(tiny.stage(repository, shift), repository, keep=2)
    assert repository.versions("style") == [1, 4, 5]
    assert published.pruned == (3,)


def test_versions_that_take_other_inputs_replace_each_other_and_are_not_served_side_by_side(repository):
    staged = tiny.stage(repository, 2, ("a", "b"))
    with pytest.raises(PublishError, match="takes other inputs than the stable version 1"):
        publishing.publish(staged, repository, label="canary")
    publishing.publish(tiny.stage(repository, 2, ("a", "b")), repository)
    text = (repository.path / "style" / "config.pbtxt").read_text()
    assert "specific { versions: [ 2 ] }" in text
    assert "dims: [ 2 ]" in text
    assert publishing.rollback(style(repository)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["fsync", "rename", "open", "mkdir"])
def test_a_full_disk_at_any_call_leaves_the_old_version_or_the_new_one_and_one_message(
    repository, monkeypatch, operation
):
    real, failures, calls = getattr(os, operation), 0, 0
    for fails_at in itertools.count(1):
        staged, before, stable, calls = tiny.stage(repository, 2), state(repository), style(repository).labels.stable, 0

        def fails(*args, fails_at=fails_at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(os, operation, fails)
            try:
                published = publishing.publish(staged, repository)
                assert style(repository).labels.stable == published.version > stable
            except (PublishError, RepositoryError) as error:
                assert "No space left on device" in str(error)
                assert state(repository) == before
                failures += 1
        if calls < fails_at:
            break
    assert failures > 0


def test_a_repository_that_cannot_be_written_is_one_message(repository, monkeypatch):
    before = state(repository)

    def refuses(self, target):
        raise PermissionError(13, "Read-only file system", str(target))

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(PublishError, match="Read-only file system; nothing was published"):
        publishing.publish(tiny.stage(repository, 2), repository)
    assert state(repository) == before


def test_a_configuration_that_does_not_parse_is_not_written(repository, monkeypatch):
    before = state(repository)
    monkeypatch.setattr(ModelConfiguration, "text", lambda *_: "max_batch_size: many")
    with pytest.raises(PublishError, match=r"withdrawn: configs/gpu\.pbtxt of style does not parse: 1:17"):
        publishing.publish(tiny.stage(repository, 2), repository)
    assert state(repository) == before


def test_exports_at_the_same_time_get_versions_of_their_own_and_the_last_is_stable(repository):
    staged = [tiny.stage(repository, shift) for shift in range(4)]
    published: list[int] = []
    threads = [
        threading.Thread(target=lambda s=s: published.append(publishing.publish(s, repository).version), daemon=True)
        for s in staged
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published) == [2, 3, 4, 5]
    assert style(repository).labels.stable == 5


def test_a_lock_that_is_held_is_waited_for_and_then_named(repository):
    with (
        repository.lock(),
        pytest.raises(RepositoryError, match=r"held .*\.lock for 0\.1 s"),
        repository.lock(timeout=0.1),
    ):
        pass


@pytest.mark.slow
def test_a_kill_at_any_change_of_a_file_leaves_whole_versions_only_and_the_next_export_works(tmp_path):
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else tmp_path) as folder:
        repository = Path(folder) / "model_repository"
        repository.mkdir()
        command = [sys.executable, "-m", "tests.registry.kill_publisher", str(repository)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kills = re.match(r"(\d+) kills", done.stdout)
    assert int(kills[1]) > 50


def test_the_staging_of_a_living_process_is_not_swept(repository):
    mine = repository.staging("style")
    os.utime(mine, (0, 0))
    repository.sweep()
    assert mine.exists()


@pytest.fixture
def told(repository, monkeypatch) -> list[str]:
    """What a person is told of a repository that a server serves, and "changed" where what is served changes."""
    events: list[str] = []
    monkeypatch.setattr(publishing, "connected", lambda address, is_required=False: nullcontext(object()))
    monkeypatch.setattr(Rollout, "switch", lambda model, labels: events.append("changed"))
    return events


TWO_STYLES = (
    "style version 2 takes other inputs (2 styles; image [-1, -1, 3], style_weights [2]) than version 1, which is served "
    "(1 style; image [-1, -1, 3], style_weights [1]); the server cannot hold both, so calls through stylize may be refused as "
    "UNAVAILABLE for about a second while it changes"
)


def test_who_publishes_or_promotes_a_network_with_one_style_more_is_told_first_that_calls_will_be_refused(
    repository, told
):
    staged = tiny.stage(repository, 2, styles=("starry_night", "wave"))
    publishing.publish(staged, repository, "a server", warn=told.append)
    assert told == [TWO_STYLES, "changed"]
    told.clear()
    publishing.promote(Rollout("style", repository, client=object()), 2, warn=told.append)
    assert told == [TWO_STYLES, "changed"]


def test_nothing_is_said_where_callers_notice_nothing(repository, told):
    """The same inputs; another label than stable; no server."""
    publishing.publish(tiny.stage(repository, 2), repository, "a server", warn=told.append)
    assert told == ["changed"]
    two = tiny.stage(repository, 3, styles=("starry_night", "wave"))
    publishing.publish(two, repository, "a server", label="museum", warn=told.append)
    assert told == ["changed"] * 2
    publishing.promote(Rollout("style", repository), 3, warn=told.append)
    assert told == ["changed"] * 3


def test_a_rollback_to_another_number_of_styles_says_so_too(repository):
    publishing.publish(tiny.stage(repository, 2, styles=("starry_night", "wave")), repository)
    model = Rollout("style", repository, client=object())
    said = model.interruption(model.labels.without_label("previous").with_label("stable", 1))
    assert said.startswith("style version 1 takes other inputs (1 style;")


def test_the_command_warns_on_stderr_before_it_acts(repository, told, monkeypatch):
    publishing.publish(tiny.stage(repository, 2, styles=("starry_night", "wave")), repository)
    told.clear()
    done = CliRunner().invoke(models_app, ["promote", "style", "2", "--repository", str(repository.path)])
    assert done.stderr.replace(" \n", "\n").splitlines()[-1] == f"warning: {TWO_STYLES}", done.output
    assert done.stdout == "style version 2 is now stable\n"
