"""A repository in object storage, on a real S3 server (moto's) on this machine."""

from __future__ import annotations

import itertools
import shutil

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from reverie_client import Client
from typer.testing import CliRunner

from registry import bucket, publishing
from registry.bucket import Bucket, BucketError
from registry.history import History
from registry.manifest import ManifestError
from registry.repository import Repository, RepositoryError
from registry.rollout import Rollout, SwitchError
from reverie.cli import cli
from serving.triton.server import PROJECT, TritonServer
from tests.export import tiny

_numbers = itertools.count()


@pytest.fixture(scope="module")
def storage():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(storage, monkeypatch) -> Bucket:
    """An empty bucket."""
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    name = f"models-{next(_numbers)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return Bucket.at(f"s3://{name}/team/app")


@pytest.fixture
def here(tmp_path) -> Repository:
    """A repository with one published version of `style`, and a Python model."""
    found = empty(tmp_path / "here")
    publishing.publish(tiny.stage(found), found)
    shutil.copytree(PROJECT / "model_repository" / "stylize", found.path / "stylize")
    return found


@pytest.fixture
def there(tmp_path) -> Repository:
    """A repository that is not there yet, on what is another machine."""
    return Repository(tmp_path / "there")


def empty(path) -> Repository:
    path.mkdir()
    return Repository(path)


def files(repository: Repository) -> dict[str, bytes]:
    found = (p for p in repository.path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(repository.path)): p.read_bytes() for p in found if p.suffix != ".jsonl"}


def labels(repository: Repository) -> dict[str, int]:
    return dict(Rollout("style", repository).labels.versions)


def test_what_is_pushed_is_pulled_byte_for_byte(store, here, there):
    assert [moved.model for moved in bucket.push(here, store)] == ["style", "stylize"]
    assert [moved.model for moved in bucket.pull(there, store)] == ["style", "stylize"]
    assert files(there) == files(here)
    assert [e["event"] for e in History(there.path).events()] == ["pulled"]


def test_what_is_the_same_on_both_sides_is_left_alone(store, here, there):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    before = store.listing()
    assert list(bucket.push(here, store)) == []
    assert list(bucket.pull(there, store)) == []
    assert store.listing() == before


def test_a_new_version_and_a_moved_label_follow_and_so_does_the_way_back(store, here, there):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    publishing.publish(tiny.stage(here, 2), here)
    publishing.promote(Rollout("style", here), 1, "museum")
    (pushed,) = bucket.push(here, store)
    (pulled,) = bucket.pull(there, store)
    assert pushed.versions == pulled.versions == (2,)
    assert labels(there) == {"stable": 2, "previous": 1, "museum": 1}
    publishing.rollback(Rollout("style", here))
    assert [moved.versions for moved in bucket.push(here, store)] == [()]
    list(bucket.pull(there, store))
    assert labels(there) == {"stable": 1, "museum": 1}


@pytest.mark.slow
def test_old_versions_go_from_the_bucket_as_they_do_from_the_disk(store, here):
    list(bucket.push(here, store))
    for shift in range(2, 9):
        publishing.publish(tiny.stage(here, shift), here)
        (moved,) = bucket.push(here, store)
    assert moved.removed == (3,)
    held = {int(key.split("/")[1]) for key in store.listing("style/") if key.endswith("manifest.json")}
    assert held == {4, 5, 6, 7, 8}


class Dies(Exception):
    """What stops a push at one of its requests."""


class Frail:
    """An S3 client that dies at its `last` request that writes; the request itself is still done, or not."""

    def __init__(self, client, last: int, is_done: bool):
        self._client, self._left, self._is_done = client, last, is_done

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if name not in ("put_object", "upload_file", "delete_objects"):
            return method

        def call(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and self._is_done:
                method(*args, **kwargs)
            if self._left <= 0:
                raise Dies
            return method(*args, **kwargs)

        return call


@pytest.mark.slow
def test_a_push_that_dies_at_any_request_leaves_whole_versions_and_the_next_one_works(store, here, tmp_path):
    list(bucket.push(here, store))
    version = 1
    for last, is_done in itertools.product(range(1, 99), (False, True)):
        version = publishing.publish(tiny.stage(here, version + 1), here).version
        died = False
        try:
            list(bucket.push(here, Bucket(Frail(store.client, last, is_done), store.name, store.prefix)))
        except Dies:
            died = True
        reader = empty(tmp_path / f"reader-{last}-{is_done}")
        list(bucket.pull(reader, store))
        assert labels(reader)["stable"] in (version - 1, version)
        list(bucket.push(here, store))
        list(bucket.pull(reader, store))
        assert labels(reader)["stable"] == version
        if not died:
            break
    assert last > 5  # Each file of a version was one of the requests.


def test_of_two_that_push_the_same_number_one_is_told_to_pull(store, here, there):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    publishing.publish(tiny.stage(here, 2), here)
    publishing.publish(tiny.stage(there, 3), there)
    list(bucket.push(here, store))
    with pytest.raises(BucketError, match="style version 2 in the bucket is another; pull first"):
        list(bucket.push(there, store))
    with pytest.raises(BucketError, match="style version 2 here is another than in the bucket; move it away"):
        list(bucket.pull(there, store))


def test_a_label_that_another_moved_meanwhile_is_not_moved_back(store, here, there, monkeypatch):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    publishing.promote(Rollout("style", here), 1, "museum")
    publishing.promote(Rollout("style", there), 1, "gallery")
    before = store.read("style/config.pbtxt")
    list(bucket.push(there, store))
    read = Bucket.read
    monkeypatch.setattr(Bucket, "read", lambda self, key: before if key == "style/config.pbtxt" else read(self, key))
    with pytest.raises(BucketError, match="style was changed in the bucket meanwhile"):
        list(bucket.push(here, store))


def test_a_byte_that_changed_in_the_bucket_is_found_and_nothing_is_taken(store, here, there):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    publishing.publish(tiny.stage(here, 2), here)
    list(bucket.push(here, store))
    graph = store.read("style/2/model.onnx")[0]
    store.client.put_object(Bucket=store.name, Key=f"{store.prefix}style/2/model.onnx", Body=graph[:-1] + b"x")
    before = files(there)
    with pytest.raises(ManifestError, match=r"model\.onnx was altered"):
        list(bucket.pull(there, store))
    assert files(there) == before


def test_a_file_that_a_manifest_does_not_name_is_left_there(store, here, there):
    list(bucket.push(here, store))
    store.client.put_object(Bucket=store.name, Key=f"{store.prefix}style/1/left_over.onnx", Body=b"x")
    list(bucket.pull(there, store))
    assert files(there) == files(here)


def test_a_configuration_that_does_not_parse_is_named(store, here, there):
    list(bucket.push(here, store))
    store.client.put_object(Bucket=store.name, Key=f"{store.prefix}style/config.pbtxt", Body=b"name: [")
    with pytest.raises(BucketError, match=r"style/config\.pbtxt in the bucket cannot be read"):
        list(bucket.pull(there, store))
    with pytest.raises(BucketError, match=r"style/config\.pbtxt in the bucket cannot be read"):
        list(bucket.push(here, store))


def test_a_key_that_leads_elsewhere_is_refused(store, here, there, tmp_path):
    list(bucket.push(here, store))
    store.client.put_object(Bucket=store.name, Key=f"{store.prefix}stylize/../../owned", Body=b"x")
    with pytest.raises(BucketError, match="leads out of the repository"):
        list(bucket.pull(there, store))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://bucket/models", "accepted: s3://BUCKET or s3://BUCKET/PREFIX"),
        ("s3://", "accepted: s3://BUCKET"),
        ("s3://nobody-s", "NoSuchBucket"),
    ],
)
def test_a_url_that_names_no_bucket_says_so(store, there, url, message):
    with pytest.raises(BucketError, match=message):
        list(bucket.pull(there, Bucket.at(url)))


def test_an_empty_bucket_and_a_storage_that_does_not_answer_say_what_to_do(store, there):
    with pytest.raises(BucketError, match="holds no models; fill it with 'reverie models push'"):
        list(bucket.pull(there, store))
    with pytest.raises(BucketError, match="Could not connect"):
        list(bucket.pull(there, Bucket.at("s3://models", "http://127.0.0.1:9")))


def test_a_number_is_taken_once(here):
    with pytest.raises(RepositoryError, match="style has a version 1 already"):
        here.place("style", 1, tiny.stage(here, 2).files)


def test_the_commands_say_what_was_done(store, here, there):
    url = f"s3://{store.name}/{store.prefix}"
    run = lambda *arguments: CliRunner().invoke(cli, arguments, catch_exceptions=False).output  # noqa: E731
    assert "style: pushed (1 stable); new: 1" in run("models", "push", url, "--repository", str(here.path))
    pull = ("models", "pull", url, "--repository", str(there.path), "--address", "127.0.0.1:9")
    assert "style: pulled (1 stable); new: 1" in run(*pull)
    assert "nothing to do: both sides are the same" in run(*pull)


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.usefixtures("short_drains")
def test_a_running_server_gets_into_service_what_was_pulled_and_keeps_what_does_not_serve_out(
    store, here, there, photo
):
    list(bucket.push(here, store))
    list(bucket.pull(there, store))
    with TritonServer(there.path) as server, Client(server.address.grpc) as client:
        publishing.publish(tiny.stage(here, 2), here)
        list(bucket.push(here, store))
        list(bucket.pull(there, store, server.address.grpc))
        assert client.admin.labels("style").stable == 2
        assert client.stylize(photo)
        staged = tiny.stage(here, 3)
        (staged.files / "model.onnx").write_bytes(tiny.graph(99).SerializeToString())  # Not what was recorded.
        tiny.add_manifest(staged.files)
        publishing.publish(staged, here)
        list(bucket.push(here, store))
        with pytest.raises(SwitchError, match=r"differs by .* from what was recorded"):
            list(bucket.pull(there, store, server.address.grpc))
        assert client.admin.labels("style").stable == 2
        assert there.versions("style") == [1, 2]
        assert client.stylize(photo)


class Url(str):
    """In the place of a repository's path, which `reverie serve` takes only on disk."""

    def resolve(self):
        return self

    def is_dir(self):
        return True


@pytest.mark.slow
@pytest.mark.service
def test_triton_reads_the_bucket_by_itself_where_a_model_needs_no_other_s_files(store, here, photo, storage):
    shutil.rmtree(here.path / "stylize")
    list(bucket.push(here, store))
    with TritonServer(Url(f"s3://{storage}/{store.name}/{store.prefix.strip('/')}")) as server:
        inputs = {"image": np.zeros((1, 32, 32, 3), np.uint8), "style_weights": np.ones((1, 1), np.float32)}
        with Client(server.address.grpc) as client:
            assert client.infer("style", inputs).outputs["stylized"].min() == 1
