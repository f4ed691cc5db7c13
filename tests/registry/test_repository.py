import threading

import pytest

from registry.repository import Repository


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "models").mkdir()
    return Repository(tmp_path / "models")


def staged(repository, text="weights"):
    files = repository.staging("style") / "version"
    files.mkdir()
    (files / "model.onnx").write_text(text)
    return files


def test_versions_count_up_from_one(repository):
    assert [repository.publish("m", staged(repository)) for _ in range(3)] == [1, 2, 3]
    assert repository.versions("m") == [1, 2, 3]


def test_a_published_version_is_whole_and_its_staging_gone(repository):
    files = staged(repository, "w")
    repository.publish("m", files)
    assert (repository.path / "m" / "1" / "model.onnx").read_text() == "w"
    assert not files.exists()


def test_staging_lies_outside_the_repository_on_its_file_system(repository):
    staging = repository.staging("style")
    assert repository.path not in staging.parents
    assert staging.stat().st_dev == repository.path.stat().st_dev


def test_exports_at_the_same_time_get_versions_of_their_own(repository):
    folders = [staged(repository, str(i)) for i in range(12)]
    published: list[int] = []
    threads = [
        threading.Thread(target=lambda f=f: published.append(repository.publish("m", f)), daemon=True) for f in folders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published) == list(range(1, 13))
    contents = {(repository.path / "m" / str(v) / "model.onnx").read_text() for v in published}
    assert contents == {str(i) for i in range(12)}


def test_a_withdrawn_version_is_gone_and_the_others_stay(repository):
    for _ in range(2):
        repository.publish("m", staged(repository))
    repository.withdraw("m", 2)
    assert repository.versions("m") == [1]
    assert [p.name for p in repository.path.parent.iterdir() if "staging" in p.name and any(p.iterdir())] == []


def test_an_unchanged_file_is_not_written_again(repository):
    assert repository.write("m", "config.pbtxt", "a")
    before = (repository.path / "m" / "config.pbtxt").stat().st_mtime_ns
    assert not repository.write("m", "config.pbtxt", "a")
    assert (repository.path / "m" / "config.pbtxt").stat().st_mtime_ns == before
