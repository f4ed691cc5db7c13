"""One style as one small file: its vector, what network it belongs to, and what a person wants to know of it.

JSON, so that an app can keep it in its own database. Knows nothing about where files are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, field_validator

from reverie.errors import InputError

FORMAT: Literal["reverie-style-1"] = "reverie-style-1"
LARGEST = 1 << 20
"""Bytes of a file; a vector takes ten thousand, and a thumbnail as many."""
LONGEST_NAME = 100
"""Bytes of a name in UTF-8, so that it fits into the name of a file."""
_NAME = re.compile(r"[\w.-]+( [\w.-]+)*")
_CHECKSUM = "sha256"


class StyleFileError(InputError):
    """A file that holds no style; the message says what is wrong with it."""


def is_name(name: str) -> bool:
    """Whether a style may be called so."""
    return bool(_NAME.fullmatch(name)) and len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME


def checked_name(name: str) -> str:
    """`name`, if a style may be called so.

    Raises:
        InputError: it may not.
    """
    if not is_name(name):
        raise InputError(
            f"a style cannot be called {name!r}; accepted: letters, digits, '_', '-', '.' and single spaces between them, at most "
            f"{LONGEST_NAME} bytes"
        )
    return name


def _bytes_of(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"is not base64 ({error})") from None


_Base64 = Annotated[
    bytes,
    BeforeValidator(_bytes_of),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str),
]


class StyleFile(BaseModel):
    """A style. Vectors are float32, little-endian; see `vector`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["reverie-style-1"] = FORMAT
    name: str = Field(description="What callers call it.")
    network: str = Field(pattern="^[0-9a-f]{16}$", description="Hash of the network that the vector was made for.")
    numbers: _Base64 = Field(description="The vector.")
    painting: str = Field(default="", max_length=500, description="Name of the painting that it was learned from.")
    painting_sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    thumbnail: _Base64 = Field(default=b"", description="A small JPEG: what it makes of a photograph.")
    measures: dict[str, float] = Field(default_factory=dict, max_length=32)
    made: str = Field(default="", max_length=40, description="When, ISO 8601.")

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        return checked_name(value)

    @field_validator("numbers")
    @classmethod
    def _check_numbers(cls, value: bytes) -> bytes:
        if not value or len(value) % 4 or not np.isfinite(np.frombuffer(value, "<f4")).all():
            raise ValueError(f"{len(value)} bytes; accepted: finite float32 numbers, at least one")
        return value

    @classmethod
    def of(cls, name: str, network: str, vector: np.ndarray, **more: Any) -> StyleFile:
        """A style with a vector, float32 (numbers,); `more` are other fields."""
        return cls(name=name, network=network, numbers=vector.astype("<f4").tobytes(), **more)

    @property
    def vector(self) -> np.ndarray:
        """float32 (numbers,)."""
        return np.frombuffer(self.numbers, "<f4").astype(np.float32)

    def check_network(self, network: str) -> None:
        """Raise InputError if another network than the style's is served."""
        if self.network != network:
            raise InputError(
                f"style {self.name!r} was made for the network {self.network}; served is {network or 'one that takes its own styles only'}: "
                "learn it again from its painting"
            )

    def to_bytes(self) -> bytes:
        """The file, with a hash of itself."""
        return _with_checksum(self.model_dump(mode="json"))

    @classmethod
    def of_bytes(cls, data: bytes, what: str) -> StyleFile:
        """Read a file.

        Args:
            what: it is, for the message.

        Raises:
            StyleFileError: it is none, or was altered.
        """
        if len(data) > LARGEST:
            raise StyleFileError(f"{what} has {len(data)} bytes; accepted: at most {LARGEST}")
        try:
            content = json.loads(data)
            content.pop(_CHECKSUM, None)
            found = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StyleFileError(f"{what} holds no style: {where}: {first['msg']}") from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise StyleFileError(f"{what} holds no style; accepted: what 'reverie styles export' has written") from None
        if data != found.to_bytes():
            raise StyleFileError(f"{what} was altered: its own hash is not that of its contents; export it again")
        return found


def _with_checksum(content: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, _CHECKSUM: digest}, indent=1, ensure_ascii=False) + "\n").encode()
