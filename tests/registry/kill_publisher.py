"""Kill a process that publishes wherever it changes a file, and look at the repository after each; see test_publishing.py.

python -m tests.registry.kill_publisher FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie_client.labels import Labels

from registry import manifest, publishing
from registry.repository import Repository
from registry.rollout import Rollout
from registry.staging import StagedVersion
from tests.export import tiny

KEPT = 3
CHANGES = {
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
}
"""Audit events that Python raises before it changes what is on disk; `open` may be another."""


class Killer:
    """An audit hook that ends its process with SIGKILL at its change number `at`, counted from 0.

    A file that is opened to be written is two changes: it is not there yet, and it is there and empty.
    """

    def __init__(self, folder: Path, at: int):
        self._folder, self._left = str(folder), at

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and self._is_ours(arguments[0]):
            self._change()
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path, _, flags = arguments
            if self._is_ours(path):
                self._change()
                self._change(lambda: os.open(path, flags & ~os.O_EXCL, 0o666))

    def _is_ours(self, path: object) -> bool:
        """Also what is named from a folder that is open, as `shutil.rmtree` does."""
        return isinstance(path, (str, os.PathLike)) and (
            not Path(path).is_absolute() or os.fspath(path).startswith(self._folder)
        )

    def _change(self, before_the_end: Callable[[], object] = lambda: None) -> None:
        self._left -= 1
        if self._left == -1:
            before_the_end()
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    repository = Repository(folder)
    made = tiny.stage(repository)
    for _ in range(KEPT + 1):  # From here on a version more is a version less.
        publish(made, repository)
    kills = 0
    while is_killed(made, repository, kills):
        kills += 1
        inspect(repository)
        remove_leftovers(made)  # Sweeping them would be changes too, before those that are counted.
    assert is_killed(made, repository, kills // 2)
    before = repository.versions("style")[-1]
    time.sleep(1.1)
    assert publish(made, repository) == before + 1, "the next export works"
    assert not leftovers(made), f"not swept: {leftovers(made)}"
    print(f"{kills} kills, {before} versions")


def is_killed(made: StagedVersion, repository: Repository, at: int) -> bool:
    """Whether a process that publishes makes so many changes, and is killed at the next one."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(Killer(repository.path.parent, at))
        publish(made, repository)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def leftovers(made: StagedVersion) -> set[Path]:
    """The staging folders but that of what was made."""
    own = made.files.parent
    return {path for path in own.parent.iterdir() if "staging" in path.name} - {own}


def remove_leftovers(made: StagedVersion) -> None:
    for path in leftovers(made):
        shutil.rmtree(path)


def publish(made: StagedVersion, repository: Repository) -> int:
    """Stage a copy of what was made, and publish it."""
    with repository.staged("style") as folder:
        files = Path(shutil.copytree(made.files, folder / "version"))
        return publishing.publish(StagedVersion(made.exported, files), repository, keep=KEPT).version


def inspect(repository: Repository) -> None:
    """Whole versions only; what the configuration names is there; what is served is labeled."""
    versions = repository.versions("style")
    for version in versions:
        manifest.verify(repository.folder("style", version))
    labels = Labels.read(repository.path / "style" / "config.pbtxt")
    assert labels.stable in versions, (labels, versions)
    assert set(labels.versions.values()) <= set(versions), (labels, versions)
    assert Rollout("style", repository).texts(), "its configuration can be written"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
