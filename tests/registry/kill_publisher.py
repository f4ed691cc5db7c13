"""Kill a process that publishes, at random instants, and look at the repository after each; see test_publishing.py.

python -m tests.registry.kill_publisher FOLDER KILLS
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from reverie_client.labels import Labels

from registry import manifest, publishing
from registry.repository import Repository
from registry.rollout import Rollout
from registry.staging import StagedVersion
from tests.export import tiny


def main(folder: Path, kills: int) -> None:
    repository = Repository(folder)
    made = tiny.stage(repository)
    publish(made, repository)
    rng = random.Random(0)
    # How long one takes; kills fall anywhere between nothing done and two versions further.
    began = time.monotonic()
    publish(made, repository)
    span = 2 * (time.monotonic() - began)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                publish(made, repository)
        time.sleep(rng.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inspect(repository)
    before = repository.versions("style")[-1]
    time.sleep(1.1)
    assert publish(made, repository) == before + 1, "the next export works"
    left = {p for p in folder.parent.iterdir() if "staging" in p.name} - {made.files.parent}
    assert not left, f"not swept: {left}"
    print(f"{kills} kills, {before} versions")


def publish(made: StagedVersion, repository: Repository) -> int:
    """Stage a copy of what was made, and publish it."""
    with repository.staged("style") as folder:
        files = Path(shutil.copytree(made.files, folder / "version"))
        return publishing.publish(StagedVersion(made.exported, files), repository, keep=3).version


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
    main(Path(sys.argv[1]), int(sys.argv[2]))
