"""A model repository in S3-compatible storage, with the files and names of the one on disk.

`push` uploads what the repository's labels name, `pull` brings a repository on another machine to what the bucket says
and loads it there. A version's manifest is written first, on the condition that nobody wrote one: it claims the number
and states the hash of every file. A model's `config.pbtxt`, which names the versions that count, is replaced last, in
one request and on the condition that it is still the one that was read. So whoever reads the bucket finds whole
versions, or notices by a hash that they are not, and of two pushes at once one is told to pull first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from google.protobuf import text_format
from reverie_client import Client, proxies
from reverie_client.labels import Labels

from registry import configuration, manifest
from registry.history import History
from registry.manifest import ManifestError
from registry.model_configuration import Target
from registry.publishing import KEEP, connected, prune
from registry.repository import Repository
from registry.rollout import Rollout
from reverie.errors import ToolkitError

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ModuleNotFoundError:
    raise ToolkitError("buckets need boto3; install it with the extra: pip install 'reverie[s3]'") from None

CONFIG = Target.portable.value
_ABANDONED = timedelta(hours=1)
"""How old a claim that no configuration names must be to be taken over."""
_CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict")


class BucketError(ToolkitError):
    """The bucket cannot be read or written, or holds something else; the message says what to do."""


@dataclass(frozen=True)
class Bucket:
    """Where a repository's files are: `s3://name/prefix`.

    Attributes:
        client: boto3's for S3.
        prefix: ends with "/", or is empty.
    """

    client: Any
    name: str
    prefix: str = ""

    @classmethod
    def at(cls, url: str, endpoint: str | None = None) -> Bucket:
        """By URL; credentials and region come from boto3's usual places (environment, files, roles).

        Args:
            endpoint: of a storage that is not Amazon's; None takes boto3's, $AWS_ENDPOINT_URL among them.

        Raises:
            BucketError: the URL is not `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        """
        parsed = urlparse(url)
        if parsed.scheme != "s3" or not parsed.netloc:
            raise BucketError(f"{url!r} is no bucket; accepted: s3://BUCKET or s3://BUCKET/PREFIX")
        settings = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 4})
        prefix = parsed.path.strip("/")
        client = _called(boto3.client, "s3", endpoint_url=endpoint, config=settings)
        if proxies.is_direct(client.meta.endpoint_url):
            client = _called(boto3.client, "s3", endpoint_url=endpoint, config=settings.merge(Config(proxies={})))
        return cls(client, parsed.netloc, f"{prefix}/" if prefix else "")

    def listing(self, folder: str = "") -> dict[str, Mapping[str, Any]]:
        """Every key below `folder` (without the prefix), with what the bucket says of it.

        Raises:
            BucketError: the bucket cannot be read, or a key leads out of a repository's folder.
        """
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix + folder)
        found = _called(lambda: [entry for page in pages for entry in page.get("Contents", [])])
        listed = {entry["Key"].removeprefix(self.prefix): entry for entry in found}
        if odd := [key for key in listed if ".." in key.split("/")]:
            raise BucketError(f"s3://{self.name}/{self.prefix}{odd[0]} leads out of the repository; remove it")
        return listed

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The contents of a key and its ETag; None where there is none."""
        try:
            answer = _called(self.client.get_object, Bucket=self.name, Key=self.prefix + key)
            return _called(answer["Body"].read), answer["ETag"]
        except BucketError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise

    def download(self, key: str, path: Path) -> None:
        """Write the contents of a key into a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _called(self.client.download_file, self.name, self.prefix + key, str(path))

    def upload(self, path: Path, key: str) -> None:
        """Write a file under a key, whatever was there."""
        _called(self.client.upload_file, str(path), self.name, self.prefix + key)

    def replace(self, key: str, contents: bytes, known: str | None) -> bool:
        """Write a key if it still has the ETag `known`, or (None) if there is still no such key; says whether it did."""
        condition = {"IfMatch": known} if known else {"IfNoneMatch": "*"}
        try:
            _called(self.client.put_object, Bucket=self.name, Key=self.prefix + key, Body=contents, **condition)
        except BucketError as error:
            if _code(error) in _CONDITION_FAILED:
                return False
            raise
        return True

    def remove(self, keys: Sequence[str]) -> None:
        """Remove keys; those that are gone already are no error."""
        for start in range(0, len(keys), 1000):
            objects = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            _called(self.client.delete_objects, Bucket=self.name, Delete={"Objects": objects, "Quiet": True})


@dataclass(frozen=True)
class SyncResult:
    """What `push` or `pull` did to a model.

    Attributes:
        versions: that were brought to the other side; removed: that are gone from there.
        labels: after it; none for the models that have no versions.
    """

    model: str
    versions: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    labels: Labels | None = None


def push(repository: Repository, bucket: Bucket) -> Iterator[SyncResult]:
    """Bring the bucket to what `repository` says, model by model; those that are the same are left out.

    Raises:
        BucketError: the bucket cannot be written, holds another version of the same number, or was changed meanwhile.
        ManifestError: a version was altered since its export.
    """
    with repository.lock():
        for name in sorted(path.parent.name for path in repository.path.glob(f"*/{CONFIG}")):
            moved = (
                _push_versions(Rollout(name, repository), bucket)
                if _is_versioned(name)
                else _push_files(name, repository, bucket)
            )
            if moved:
                yield moved


def pull(repository: Repository, bucket: Bucket, address: str | None = None) -> Iterator[SyncResult]:
    """Bring `repository` to what the bucket says, and the server at `address`, if one answers there.

    New versions are checked against their manifests before they are put in place, and go into service as any other
    (see `registry.rollout`): as a whole, or not at all.

    Raises:
        BucketError: the bucket cannot be read, or a version here is another than there.
        ManifestError: a version in the bucket is not what its manifest says.
        SwitchError: a version does not serve; what served before serves.
    """
    with connected(address) as client, repository.lock():
        repository.sweep()
        listed = bucket.listing()
        names = [name for name in (*configuration.FIXED, *configuration.EXPORTED) if f"{name}/{CONFIG}" in listed]
        if not names:
            raise BucketError(f"s3://{bucket.name}/{bucket.prefix} holds no models; fill it with 'reverie models push'")
        # A model that pins versions of another is loaded after that one has changed.
        for name in sorted(names, key=lambda name: (not _is_versioned(name), name)):
            if _is_versioned(name):
                moved = _pull_versions(Rollout(name, repository, client), bucket)
            else:
                moved = _pull_files(name, repository, bucket, client)
            if moved:
                yield moved


def _push_versions(model: Rollout, bucket: Bucket) -> SyncResult | None:
    before, labels = bucket.read(f"{model.name}/{CONFIG}"), model.labels
    named = set(_labels_in(model.name, before[0]).versions.values()) if before else set()
    new = [v for v in sorted(set(labels.versions.values())) if _push_version(model, v, bucket, named)]
    folder = model.repository.path / model.name
    is_changed = [
        _push_file(path, f"{model.name}/{path.relative_to(folder).as_posix()}", bucket)
        for path in _companions(folder)
        if path.name != CONFIG
    ]
    config = (folder / CONFIG).read_bytes()
    if before is None or before[0] != config:
        if not bucket.replace(f"{model.name}/{CONFIG}", config, before[1] if before else None):
            raise BucketError(f"{model.name} was changed in the bucket meanwhile; pull it and push again")
    elif not any(is_changed):
        return None
    return SyncResult(model.name, tuple(new), tuple(_prune(model.name, labels, bucket)), labels)


def _push_version(model: Rollout, version: int, bucket: Bucket, named: set[int]) -> bool:
    """Upload a version that is not there yet."""
    folder, place = model.repository.folder(model.name, version), f"{model.name}/{version}"
    ours, key = (folder / manifest.FILE).read_bytes(), f"{place}/{manifest.FILE}"
    files = manifest.verify(folder).files
    theirs = bucket.read(key)
    if theirs and theirs[0] != ours:
        listed = bucket.listing(key)[key]
        if version in named or datetime.now(timezone.utc) - listed["LastModified"] < _ABANDONED:
            raise BucketError(
                f"{model.name} version {version} in the bucket is another; pull first, then export again for the next number"
            )
    elif theirs and version in named:
        return False
    if (theirs is None or theirs[0] != ours) and not bucket.replace(key, ours, theirs[1] if theirs else None):
        raise BucketError(f"{model.name} version {version} is being pushed by another; pull, and export again")
    for name in files:
        bucket.upload(folder / name, f"{place}/{name}")
    return True


def _push_files(name: str, repository: Repository, bucket: Bucket) -> SyncResult | None:
    folder = repository.path / name
    paths = sorted(_files(folder), key=lambda path: path.name == CONFIG)
    pushed = [_push_file(path, f"{name}/{path.relative_to(folder).as_posix()}", bucket) for path in paths]
    return SyncResult(name) if any(pushed) else None


def _push_file(path: Path, key: str, bucket: Bucket) -> bool:
    before = bucket.read(key)
    if before and before[0] == path.read_bytes():
        return False
    bucket.upload(path, key)
    return True


def _prune(name: str, labels: Labels, bucket: Bucket) -> Iterator[int]:
    """Remove the versions that no label names, but the newest, as on disk."""
    keys = list(bucket.listing(f"{name}/"))
    versions = sorted({int(part) for key in keys if (part := key.split("/")[1]).isdigit()})
    for version in versions[: max(0, len(versions) - KEEP)]:
        if version not in labels.versions.values():
            bucket.remove([key for key in keys if key.startswith(f"{name}/{version}/")])
            yield version


def _pull_versions(model: Rollout, bucket: Bucket) -> SyncResult | None:
    config = bucket.read(f"{model.name}/{CONFIG}")
    assert config is not None
    labels = _labels_in(model.name, config[0])
    new: list[int] = []
    try:
        for version in sorted(set(labels.versions.values())):
            if _pull_version(model, version, bucket):
                new.append(version)
        if not new and labels == Labels.read(model.repository.path / model.name / CONFIG):
            return None
        before = model.labels if (model.repository.path / model.name / CONFIG).exists() else Labels()
        model.switch(labels)
    except BaseException:
        for version in new:
            model.repository.withdraw(model.name, version)
        raise
    History(model.repository.path).record(
        event="pulled", model=model.name, version=labels.stable, label="stable", was=before.stable
    )
    return SyncResult(model.name, tuple(new), tuple(prune(model)), labels)


def _pull_version(model: Rollout, version: int, bucket: Bucket) -> bool:
    """Download a version that is not here yet."""
    folder, place = model.repository.folder(model.name, version), f"{model.name}/{version}"
    theirs = bucket.read(f"{place}/{manifest.FILE}")
    if theirs is None:
        raise BucketError(f"{model.name} version {version} is named in the bucket but not there; push it again")
    if folder.exists():
        if (folder / manifest.FILE).read_bytes() != theirs[0]:
            raise BucketError(
                f"{model.name} version {version} here is another than in the bucket; move it away and pull again"
            )
        return False
    with model.repository.staged(model.name) as staging:
        files = staging / "version"
        files.mkdir()
        (files / manifest.FILE).write_bytes(theirs[0])
        for name in manifest.read(files).files:  # And no others: an abandoned push may have left some.
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ManifestError(f"{place} in the bucket names the file {name!r}, which leads out of the version")
            bucket.download(f"{place}/{name}", files / name)
        if manifest.verify(files).model != model.name:
            raise ManifestError(f"{place} in the bucket is a version of {manifest.read(files).model}")
        model.repository.place(model.name, version, files)
    return True


def _pull_files(name: str, repository: Repository, bucket: Bucket, client: Client | None) -> SyncResult | None:
    keys = sorted(bucket.listing(f"{name}/").items(), key=lambda item: item[0].endswith(f"/{CONFIG}"))
    stale = [key for key, listed in keys if not _is_same(repository.path / key, listed)]
    for key in stale:
        found = bucket.read(key)
        if found is not None:
            repository.write(name, key.removeprefix(f"{name}/"), found[0])
    if stale and client is not None:
        client.admin.load(name)
    return SyncResult(name) if stale else None


def _is_same(path: Path, listed: Mapping[str, Any]) -> bool:
    """Whether a file is what the bucket lists; the ETag of what was written in one piece is its MD5."""
    if not path.exists() or path.stat().st_size != listed["Size"]:
        return False
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == listed["ETag"].strip('"')


def _is_versioned(name: str) -> bool:
    return name in configuration.EXPORTED


def _labels_in(model: str, config: bytes) -> Labels:
    try:
        return Labels.parse(config.decode())
    except (ValueError, text_format.ParseError) as error:
        raise BucketError(f"{model}/{CONFIG} in the bucket cannot be read: {error}") from None


def _files(folder: Path) -> Iterator[Path]:
    """What belongs to a model; compiled Python does not."""
    return (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _companions(folder: Path) -> list[Path]:
    """The files of a model outside its versions."""
    return sorted(p for p in _files(folder) if _is_companion(p.relative_to(folder).parts[0]))


def _is_companion(name: str) -> bool:
    return not name.isdigit() and not name.startswith(".")  # What is being staged begins with a dot.


def _called(function, *args, **kwargs):
    """Call boto3; its errors become ours."""
    try:
        return function(*args, **kwargs)
    except (ClientError, BotoCoreError) as error:
        raise BucketError(f"S3: {error}") from error
    except ValueError as error:  # What boto3 says to an endpoint that is no URL.
        raise BucketError(f"S3: {error}; accepted as endpoint: a URL such as https://storage.example:9000") from error


def _code(error: BucketError) -> str:
    cause = error.__cause__
    return cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
