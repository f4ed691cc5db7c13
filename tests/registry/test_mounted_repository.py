"""A repository that is a mount point of its own, or that nobody may write beside: versions come and go all the same."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from registry import publishing
from registry.bucket import _companions
from registry.repository import Repository
from registry.rollout import Rollout
from tests.export import tiny


@pytest.fixture(params=["another device", "read-only parent"])
def mounted(tmp_path, monkeypatch, request) -> Repository:
    """With one version; nothing can be renamed or linked into it from outside, or made beside it."""
    (tmp_path / "models").mkdir()
    repository = Repository(tmp_path / "models")

    def crossing(real):
        def refuses(source, target, *args, **options):
            inside = [repository.path in Path(os.fsdecode(p)).absolute().parents for p in (source, target)]
            if inside[0] != inside[1]:
                raise OSError(errno.EXDEV, "Invalid cross-device link", str(source), None, str(target))
            return real(source, target, *args, **options)

        return refuses

    def guarded(real, path_of=lambda path, *_: path):
        def refuses(path, *args, **options):
            if Path(os.fsdecode(path)).parent == tmp_path and request.param == "read-only parent":
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return real(path, *args, **options)

        return refuses

    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, crossing(getattr(os, name)))
    for name in ("open", "mkdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    publishing.publish(tiny.stage(repository, 1), repository)
    return repository


def test_versions_are_published_promoted_rolled_back_and_removed_there(mounted, tmp_path):
    for shift in range(2, 8):
        publishing.publish(tiny.stage(mounted, shift), mounted)
    assert mounted.versions("style") == [3, 4, 5, 6, 7]
    model = Rollout("style", mounted)
    publishing.promote(model, 4)
    assert model.labels.stable == 4
    publishing.promote(model, 7)
    assert publishing.rollback(model) == 4
    with mounted.lock():
        mounted.sweep()
    left = [p.name for p in mounted.path.rglob("*") if "staging" in p.name and p.is_dir()]
    assert all(any(folder.name in name for folder in _held()) for name in left)
    assert [p.name for p in tmp_path.iterdir()] == ["models"]


def _held() -> list[Path]:
    from registry import repository

    return list(repository._held)


def test_what_is_being_staged_there_is_not_pushed_and_goes_when_its_process_died(mounted):
    dead = mounted.path / "style" / ".models-staging-dead"
    shutil.copytree(mounted.path / "style" / "1", dead / "version")
    os.utime(dead, (0, 0))
    assert not [p for p in _companions(mounted.path / "style") if "staging" in str(p)]
    with mounted.lock():
        mounted.sweep()
    assert not dead.exists()
