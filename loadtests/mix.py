"""What a load test asks, from a file: which endpoints, how often, with which prompts, pictures and parameters.

A mix file is TOML, with a table `[[request]]` for each kind of request; `example_mix.toml` beside this module is one, and
`docs/loadtests.md` lists the keys. Knows nothing of when requests are sent. Without a file the mix of `endpoints.py` is asked.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from reverie_client import Client
from reverie_client.requests import defaults_of

from imaging import images
from loadtests.calls import make_call
from loadtests.endpoints import (
    ENDPOINTS,
    OPENINGS,
    Caller,
    Endpoint,
    Message,
    draw_file,
    draw_pixels,
    draw_sentences,
    painting,
)
from reverie.errors import InputError
from serving.parameters import describe
from serving.style.parameters import StylizeParameters
from serving.text.parameters import GenerateParameters

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CALLERS_MISTAKES = ("INVALID_ARGUMENT", "NOT_FOUND")
"""Statuses by which a server says that the request can never be answered."""

Draw = Callable[[random.Random], Any]
Parameter = str | int | float | bool


class MixError(InputError):
    """A mix cannot be asked; the message says which key of which request, its value, and what is accepted."""


class _Keys(BaseModel):
    """What every `[[request]]` may say. Texts that name files are paths from the mix file's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    PARAMETERS: ClassVar[type[BaseModel] | None] = None
    """The model's own table of parameters, where it can be read without TensorFlow; else the server checks them."""
    CALL: ClassVar[Callable[..., Any] | None] = None
    """The client's method, whose keywords are the names of parameters that there are, where there is no such table."""
    FILES: ClassVar[tuple[str, ...]] = ()
    """The keys that name folders of pictures."""

    endpoint: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class _WithParameters(_Keys):
    parameters: dict[str, Parameter] = {}


class _Generate(_Keys):
    PARAMETERS = GenerateParameters
    prompts: list[str] | str | None = None
    parameters: dict[str, Any] = {}


class _Score(_Keys):
    prompts: list[str] | str | None = None


class _Stylize(_Keys):
    PARAMETERS = StylizeParameters
    FILES = ("pictures",)
    pictures: str | None = None
    parameters: dict[str, Any] = {}


class _Style(_Keys):
    FILES = ("pictures",)
    pictures: str | None = None


class _DeepDream(_WithParameters):
    CALL = Client.dream
    FILES = ("pictures", "guides")
    pictures: str | None = None
    guides: str | None = None


class _StyleTransfer(_WithParameters):
    CALL = Client.transfer
    FILES = ("pictures", "paintings")
    pictures: str | None = None
    paintings: str | None = None


_KEYS: dict[str, type[_Keys]] = {
    "generate": _Generate,
    "score": _Score,
    "stylize": _Stylize,
    "style": _Style,
    "deepdream": _DeepDream,
    "style_transfer": _StyleTransfer,
}


@dataclass(frozen=True)
class Request:
    """One `[[request]]` of a mix file, with what its files hold.

    Attributes:
        number: its place in the file, from 1.
        endpoint: the name of what is called.
        weight: its share beside the others.
        parameters: sent with every request of it.
        prompts: one is drawn for each request; empty draws from the default mix's.
        files: pictures by key ("pictures", "guides", "paintings"), as file bytes; one of each key is drawn.
    """

    number: int
    endpoint: str
    weight: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    files: Mapping[str, Sequence[bytes]] = field(default_factory=dict)

    def send(self, client: Caller, rng: random.Random) -> Iterator[Message]:
        """Send one, varied by `rng`."""
        return _SENDERS[self.endpoint](self, client, rng)

    def draw(self, key: str, rng: random.Random, default: Draw) -> Any:
        """One of its files of this key; of its own none, what `default` draws."""
        return rng.choice(self.files[key]) if key in self.files else default(rng)

    def to_record(self) -> dict[str, Any]:
        """What tells it from another one, for the mix's name."""
        hashes = {k: [hashlib.sha256(data).hexdigest() for data in v] for k, v in self.files.items()}
        return {"endpoint": self.endpoint, "weight": self.weight, "parameters": dict(self.parameters),
                "prompts": list(self.prompts), "files": hashes}  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """What is asked.

    Attributes:
        endpoints: by name; each draws what exactly it asks for.
        name: the same for the same requests and files: the beginning of their SHA-256.
        requests: of the file; none of the default mix.
        path: the file.
    """

    endpoints: Mapping[str, Endpoint]
    name: str
    requests: Sequence[Request] = ()
    path: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """Share of each endpoint."""
        return {name: endpoint.weight for name, endpoint in self.endpoints.items()}

    def only(self, names: Sequence[str]) -> Mix:
        """The same mix without its other endpoints."""
        return replace(self, endpoints={name: self.endpoints[name] for name in names})


DEFAULT = Mix(ENDPOINTS, "default")


def load(path: Path | None) -> Mix:
    """Read a mix file, and all pictures that it names; None is the default mix.

    Raises:
        MixError: the file cannot be read, is not TOML, has an unknown key or a value that is not accepted, or names a
            folder without pictures, or a file that is not one.
    """
    if path is None:
        return DEFAULT
    tables = _read(path)
    requests = [_to_request(path, number, table) for number, table in enumerate(tables, 1)]
    record = json.dumps([r.to_record() for r in requests], sort_keys=True)
    return Mix(_to_endpoints(requests), hashlib.sha256(record.encode()).hexdigest()[:12], requests, str(path))


def check_with_server(address: str, mix: Mix, timeout: float) -> None:
    """Send one request of each `[[request]]`: what only the server knows, such as names of styles, is then checked too.

    Raises:
        MixError: the server says that one can never be answered. Any other failure is left to the load to record.
    """
    with Caller(address, timeout=timeout) as client:
        for request in mix.requests:
            if request.endpoint not in mix.endpoints:
                continue
            endpoint = replace(ENDPOINTS[request.endpoint], request=request.send)
            error = make_call(endpoint, client, seed=0).error
            if error.startswith(CALLERS_MISTAKES):
                raise MixError(f"{_place(Path(mix.path), request.number, request.endpoint)}: the server says {error}")


def _read(path: Path) -> list[Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MixError(f"{path}: cannot be read ({error.strerror}); give a file with --mix") from None
    except ValueError as error:
        raise MixError(f"{path}: not TOML ({error})") from None
    if unknown := sorted(tables.keys() - {"request"}):
        raise MixError(f"{path}: {unknown[0]}: unknown key; accepted: tables [[request]]")
    requests = tables.get("request", [])
    if not isinstance(requests, list) or not requests:
        raise MixError(f"{path}: request: {requests!r} is not accepted; accepted: one table [[request]] or more")
    return requests


def _to_request(path: Path, number: int, table: Any) -> Request:
    keys = _check_keys(path, number, table)
    where = _place(path, number, keys.endpoint)
    parameters: dict[str, Any] = getattr(keys, "parameters", {})
    _check_parameters(where, keys, parameters)
    prompts = _read_prompts(where, path.parent, getattr(keys, "prompts", None))
    named = {key: folder for key in keys.FILES if (folder := getattr(keys, key)) is not None}
    files = {key: _read_pictures(f"{where}: {key}", path.parent / folder) for key, folder in named.items()}
    return Request(number, keys.endpoint, keys.weight, parameters, prompts, files)


def _check_keys(path: Path, number: int, table: Any) -> _Keys:
    where = _place(path, number)
    if not isinstance(table, dict):
        raise MixError(f"{where}: {table!r} is not accepted; accepted: a table")
    accepted = ", ".join(_KEYS)
    if "endpoint" not in table:
        raise MixError(f"{where}: endpoint: missing; accepted: {accepted}")
    if not isinstance(name := table["endpoint"], str) or name not in _KEYS:
        raise MixError(f"{where}: endpoint: {name!r} is not accepted; accepted: {accepted}")
    try:
        return _KEYS[name].model_validate(table)
    except ValidationError as error:
        found = "; ".join(_describe(e, _KEYS[name]) for e in error.errors())
        raise MixError(f"{_place(path, number, name)}: {found}") from None


def _describe(error: Any, keys: type[_Keys]) -> str:
    return describe(error, keys).replace("unknown parameter", "unknown key")


def _check_parameters(where: str, keys: _Keys, parameters: Mapping[str, Any]) -> None:
    call = type(keys).CALL
    accepted = sorted(defaults_of(call)) if call else []
    if call and (unknown := sorted(parameters.keys() - set(accepted))):
        raise MixError(f"{where}: parameters: {unknown[0]}: unknown parameter; accepted: {', '.join(accepted)}")
    if keys.PARAMETERS is None:
        return
    try:
        keys.PARAMETERS.model_validate(dict(parameters))
    except ValidationError as error:
        found = "; ".join(describe(e, keys.PARAMETERS) for e in error.errors())
        raise MixError(f"{where}: parameters: {found}") from None


def _read_prompts(where: str, folder: Path, prompts: list[str] | str | None) -> list[str]:
    if prompts is None:
        return []
    if isinstance(prompts, str):
        prompts = _read_lines(f"{where}: prompts", folder / prompts)
    if not prompts:
        raise MixError(f"{where}: prompts: there is none; accepted: one text or more, or a file with one a line")
    return prompts


def _read_lines(where: str, path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        message = (
            f"{where}: {path} cannot be read ({error.strerror}); accepted: a list of texts, or a file with one a line"
        )
        raise MixError(message) from None
    except UnicodeDecodeError as error:
        raise MixError(f"{where}: {path} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _read_pictures(where: str, folder: Path) -> list[bytes]:
    """The files of a picture, or of a folder's and its subfolders' pictures, in the order of their names."""
    if not folder.exists():
        raise MixError(f"{where}: {folder} does not exist; accepted: a folder of pictures, or a picture")
    found = sorted(p for p in folder.rglob("*") if _is_picture(p)) if folder.is_dir() else [folder]
    if not found:
        raise MixError(f"{where}: {folder} holds no pictures; accepted: files that end in {', '.join(images.ENDINGS)}")
    return [_read_picture(where, path) for path in found]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in images.ENDINGS and not path.name.startswith(".") and path.is_file()


def _read_picture(where: str, path: Path) -> bytes:
    try:
        data = path.read_bytes()
        images.measure(data, str(path))
    except OSError as error:
        raise MixError(f"{where}: {path} cannot be read ({error.strerror})") from None
    except images.ImageError as error:
        raise MixError(f"{where}: {error}") from None
    return data


def _to_endpoints(requests: Sequence[Request]) -> dict[str, Endpoint]:
    """One endpoint of a name: it draws which of the file's requests to it is sent, in proportion to their weights."""
    endpoints = {}
    for name, default in ENDPOINTS.items():
        own = [r for r in requests if r.endpoint == name]
        if own:
            endpoints[name] = replace(default, request=_one_of(own), weight=sum(r.weight for r in own))
    return endpoints


def _one_of(requests: Sequence[Request]) -> Callable[[Caller, random.Random], Iterator[Message]]:
    totals = list(itertools.accumulate(r.weight for r in requests))

    def send(client: Caller, rng: random.Random) -> Iterator[Message]:
        return rng.choices(requests, cum_weights=totals)[0].send(client, rng)

    return send


def _place(path: Path, number: int, endpoint: str = "") -> str:
    return f"{path}: request {number}" + (f" ({endpoint})" if endpoint else "")


def _generate(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    prompt = rng.choice(request.prompts or OPENINGS)
    with client.generate(prompt, **{"seed": rng.randrange(2**31), **request.parameters}) as stream:
        yield from stream


def _score(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    yield client.score(rng.choice(request.prompts) if request.prompts else draw_sentences(rng))


def _stylize(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    yield client.stylize(request.draw("pictures", rng, draw_file), **request.parameters)


def _style(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    yield client.style(_decoded(rng.choice(request.files["pictures"])) if request.files else draw_pixels(rng))


def _dream(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    photo, guide = request.draw("pictures", rng, draw_file), request.draw("guides", rng, lambda _: b"")
    with client.dream(photo, guide_image=guide, **request.parameters) as stream:
        yield from stream


def _transfer(request: Request, client: Caller, rng: random.Random) -> Iterator[Message]:
    photo, style = request.draw("pictures", rng, draw_file), request.draw("paintings", rng, lambda _: painting())
    with client.transfer(photo, style, **request.parameters) as stream:
        yield from stream


@functools.lru_cache(maxsize=256)
def _decoded(data: bytes) -> np.ndarray:
    return images.decode(data)


_SENDERS: dict[str, Callable[[Request, Caller, random.Random], Iterator[Message]]] = {
    "generate": _generate,
    "score": _score,
    "stylize": _stylize,
    "style": _style,
    "deepdream": _dream,
    "style_transfer": _transfer,
}
