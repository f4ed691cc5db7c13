"""The key file: who may call, how often, and which models. Keys themselves are nowhere in it, only their SHA-256.

A key has 256 random bits, so its hash can neither be guessed nor looked up, and needs no salt. Whoever can read the file
can call nobody's models with it; whoever can write it can let himself in. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from reverie import outputs
from reverie.errors import InputError
from serving.parameters import describe

PREFIX = "reverie_"
"""Of every key, so that people and scanners of secrets know one when they see it."""
MOST_KEYS = 1000
"""Each is a label of the metrics, and a rule that every request may be compared with."""
MOST_REQUESTS, MOST_STREAMS, MOST_MIB = 1_000_000, 10_000, 4096
UNITS = {"s": 1, "min": 60, "h": 3600, "day": 86400}
_SPELLINGS = {"sec": "s", "second": "s", "m": "min", "minute": "min", "hour": "h", "d": "day"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_QUOTA = re.compile(r"([0-9]{1,12})\s*/\s*([a-z]+)")


class KeyFileError(InputError):
    """A key file, or a change to it, that is not accepted; the message says why and what is."""


@dataclass(frozen=True)
class Quota:
    """So many calls in a time; after a pause that many may come at once.

    Attributes:
        calls: 1 to `MOST_REQUESTS`.
        unit: one of `UNITS`.
    """

    calls: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Quota:
        """Out of "20/s", "20/min", "1000/h" or "1000/day".

        Raises:
            KeyFileError: it is none of these.
        """
        found = _QUOTA.fullmatch(text.strip().lower())
        unit = _SPELLINGS.get(found[2], found[2]) if found else ""
        if found is None or unit not in UNITS or not 1 <= int(found[1]) <= MOST_REQUESTS:
            raise KeyFileError(
                f"quota {text[:40]!r}; accepted: 1 to {MOST_REQUESTS} calls in one of {', '.join(UNITS)}, as in 20/s or "
                "20/min"
            )
        return cls(int(found[1]), unit)

    @property
    def seconds(self) -> int:
        return UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.calls}/{self.unit}"


def checked_name(name: str) -> str:
    """A name that a header, a metric and a file can carry.

    Raises:
        KeyFileError: it is not.
    """
    if _NAME.fullmatch(name):
        return name
    raise KeyFileError(
        f"name {name[:80]!r}; accepted: 1 to 63 letters, digits, '.', '_' and '-' of ASCII, the first a letter or digit"
    )


def _checked_quota(text: str) -> str:
    return str(Quota.parse(text))


class Caller(BaseModel):
    """What one key opens.

    Attributes:
        sha256: of the key, as 64 hexadecimal digits.
        quota: calls in a time, "" for any number; see `Quota`.
        streams: calls at the same time, 0 for any number.
        models: that may be called; none means all.
        admin: whether models may be loaded and unloaded.
        body_mib: the largest request in MiB; 0 for what the server takes.
        created: when the key was made, as ISO 8601 in UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    quota: Annotated[str, AfterValidator(lambda text: _checked_quota(text) if text else "")] = ""
    streams: int = Field(0, ge=0, le=MOST_STREAMS, strict=True)
    models: tuple[Annotated[str, AfterValidator(checked_name)], ...] = ()
    admin: bool = Field(False, strict=True)
    body_mib: int = Field(0, ge=0, le=MOST_MIB, strict=True)
    created: str = ""


Callers = Mapping[str, Caller]
"""By name."""


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: dict[str, Caller] = Field({}, max_length=MOST_KEYS)


@dataclass(frozen=True)
class KeyFile:
    """The key file at `path`, which need not exist before the first key.

    Every change is made under a lock and put in place at once: who reads meanwhile finds the old keys or the new ones.
    """

    path: Path

    def callers(self) -> dict[str, Caller]:
        """Who has a key.

        Raises:
            KeyFileError: there is no such file, others may write it, or something in it is not accepted.
        """
        try:
            return self._read()
        except FileNotFoundError:
            raise KeyFileError(f"there is no key file {self.path}; make one with: reverie keys add NAME") from None

    def add(self, name: str, **limits: Any) -> str:
        """Make a key for `name`; `limits` are the fields of `Caller`.

        Returns:
            The key. It is written nowhere.

        Raises:
            KeyFileError: `name` has a key, a limit is not accepted, or see `callers`.
        """
        checked_name(name)
        with self._changing() as callers:
            if name in callers:
                raise KeyFileError(
                    f"{name} has a key; accepted: another name, 'reverie keys rotate {name}' for a new key with the same "
                    f"limits, 'reverie keys revoke {name}' to begin anew"
                )
            if len(callers) >= MOST_KEYS:
                raise KeyFileError(f"there are {len(callers)} keys; at most {MOST_KEYS} may be; revoke one first")
            key = new_key()
            callers[name] = _caller(sha256=digest(key), created=_now(), **limits)
        return key

    def rotate(self, name: str) -> str:
        """Make a new key in the place of that of `name`, with the same limits; returns it. Raises: as `revoke`."""
        with self._changing() as callers:
            key = new_key()
            callers[name] = _found(callers, name).model_copy(update={"sha256": digest(key), "created": _now()})
        return key

    def revoke(self, name: str) -> None:
        """Let nobody in with the key of `name` any more.

        Raises:
            KeyFileError: `name` has none, or see `callers`.
        """
        with self._changing() as callers:
            _found(callers, name)
            del callers[name]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Caller]]:
        """The callers, to be changed; what they are at the end is written."""
        with self._locked():
            try:
                callers = self._read()
            except FileNotFoundError:
                callers = {}
            yield callers
            self._write(callers)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time; the folder is locked, for the file is another one after each change."""
        if not self.path.parent.is_dir():
            raise KeyFileError(f"there is no folder {self.path.parent} for the key file; make it first")
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Caller]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # Without waiting, should it be a pipe.
        with os.fdopen(descriptor, "rb") as file:
            self._check_owner(os.fstat(descriptor))
            text = file.read()
        try:
            contents = _Contents.model_validate_json(text)
            for name in contents.keys:
                checked_name(name)
            _check_apart(contents.keys)
        except ValidationError as error:
            raise KeyFileError(f"{self.path}: {'; '.join(_described(e) for e in error.errors())}") from None
        except KeyFileError as error:
            raise KeyFileError(f"{self.path}: {error}") from None
        return dict(contents.keys)

    def _check_owner(self, found: os.stat_result) -> None:
        """Only who may write it matters: a container's secrets are mounted so that all may read them."""
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"{self.path} is no ordinary file; accepted: a file made by 'reverie keys add'")
        if found.st_uid not in (os.geteuid(), 0):
            raise KeyFileError(
                f"{self.path} belongs to user {found.st_uid}; accepted: your own, {os.geteuid()}, or root's"
            )
        if found.st_mode & 0o022:
            raise KeyFileError(f"{self.path} can be written by other users; close it with chmod go-w {self.path}")

    def _write(self, callers: Callers) -> None:
        contents = _Contents(keys=dict(sorted(callers.items())))
        with outputs.replacing(self.path) as unfinished:
            unfinished.chmod(0o600)  # While it is empty.
            unfinished.write_text(contents.model_dump_json(indent=1, exclude_defaults=True) + "\n")


def new_key() -> str:
    """A key of 256 random bits, of letters, digits, '-' and '_'."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _caller(**fields: Any) -> Caller:
    try:
        return Caller(**fields)
    except ValidationError as error:
        raise KeyFileError("; ".join(_described(e) for e in error.errors())) from None


def _described(error: Any) -> str:
    """As everywhere, but whatever stands where a hash should is not shown: it may be a key."""
    if "sha256" in error["loc"]:
        return f"{'.'.join(str(part) for part in error['loc'])}: no SHA-256 of a key; accepted: 64 hexadecimal digits"
    if error["type"] == "json_invalid":
        return f"no JSON ({error['ctx']['error']}); accepted: what 'reverie keys add' writes"
    own = error.get("ctx", {}).get("error")  # Ours, which says all.
    return str(own) if own else describe(error, Caller)


def _found(callers: Callers, name: str) -> Caller:
    if name in callers:
        return callers[name]
    raise KeyFileError(f"{name[:80]!r} has no key; those who have: {', '.join(callers) or 'nobody'}")


def _check_apart(callers: Callers) -> None:
    names: dict[str, str] = {}
    for name, caller in callers.items():
        if names.setdefault(caller.sha256, name) != name:
            raise KeyFileError(f"{names[caller.sha256]} and {name} have the same key; accepted: one name for each key")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
