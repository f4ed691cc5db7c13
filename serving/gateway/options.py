"""How a gateway is set up: its limits, who may call it from a browser, where the tokenizer is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reverie.errors import ToolkitError

MIB = 2**20


@dataclass(frozen=True)
class GatewayOptions:
    """Settings of one gateway.

    Attributes:
        repository: the model repository, for the tokenizer: it counts a prompt's tokens, and reads prompts of token ids.
        origins: of web pages that may call from a browser ("https://example.org"); "*" for all. None may otherwise, but
            the gateway's own.
        timeout: seconds for an answer or a whole stream.
        most_json: bytes of a body in JSON.
        most_upload: bytes of a body with pictures, all of them together.
        most_in_work: bytes of all bodies that are being read or worked on; the next caller is told to come again.
        idle_seconds: between two pieces of a body; then the caller is told that it took too long.
        has_door: whether the door alone reaches the gateway, so that `reverie-client` and `reverie-limits` are its words.
            Otherwise a caller's limits are not read.

    Raises:
        ToolkitError: a limit is not above 0.
    """

    repository: Path = Path("model_repository")
    origins: tuple[str, ...] = ()
    timeout: float = 1800.0
    most_json: int = 2 * MIB
    most_upload: int = 64 * MIB
    most_in_work: int = 512 * MIB
    idle_seconds: float = 30.0
    has_door: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout", "most_json", "most_upload", "most_in_work", "idle_seconds"):
            if not getattr(self, name) > 0:
                raise ToolkitError(f"{name}: {getattr(self, name)}; accepted: numbers above 0")

    def arguments(self) -> list[str]:
        """As `python -m serving.gateway` takes them."""
        sizes = {"max-json": self.most_json, "max-upload": self.most_upload, "max-in-work": self.most_in_work}
        return [
            f"--repository={self.repository}",
            *(f"--origin={origin}" for origin in self.origins),
            f"--timeout={self.timeout}",
            *(f"--{name}={size / MIB}" for name, size in sizes.items()),
            f"--idle={self.idle_seconds}",
            *(["--has-door"] if self.has_door else []),
        ]
