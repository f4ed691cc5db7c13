"""Cut the bytes of a stream into gRPC's messages, and let none of them go on whole before it is checked.

A message of up to `HELD` bytes goes on when it is whole and accepted. Of a larger one all goes on but its last piece, so
that Envoy need not buffer it. Knows nothing of where the bytes come from, and of what is harmful.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from serving.door.guard.messages import Refused

HELD = 256 * 2**10
"""Bytes."""
_HEAD = 5
"""Bytes before a message: whether it is compressed, and its length."""
_PIECES, _SMALLEST_PIECE = 64, 256
"""So many pieces of a message may be of any size; beyond them, so many bytes are a piece on average."""


@dataclass
class Gate:
    """What a stream has to pass.

    Attributes:
        check: raises Refused for a message that is not to go on.
        message_bytes: the largest message.
    """

    check: Callable[[bytes], None]
    message_bytes: int
    has_passed: bool = field(default=False, init=False)
    """Whether a whole message has gone on."""
    _message: bytearray = field(default_factory=bytearray, init=False, repr=False)
    """The one that is coming, with its head."""
    _gone: int = field(default=0, init=False)
    """Bytes of it that have gone on."""
    _pieces: int = field(default=0, init=False)

    @property
    def is_torn(self) -> bool:
        """Whether a part of a message has gone on, and its end has not."""
        return self._gone > 0

    def take(self, piece: bytes) -> bytes:
        """Return what may go on now that `piece` has come.

        Raises:
            Refused: nothing of `piece` may, nor of what comes after it.
        """
        rest, passed = memoryview(piece), bytearray()
        is_whole = False
        self._pieces += 1
        while rest:
            missing = self._size() - len(self._message)
            self._message += rest[:missing]
            rest = rest[missing:]
            if len(self._message) == self._size():  # Asked anew: it was the head's alone before the head had come.
                self.check(bytes(memoryview(self._message)[_HEAD:]))
                passed += memoryview(self._message)[self._gone :]
                self._message, self._gone, self._pieces, is_whole = bytearray(), 0, 0, True
        self._check_pieces()
        if len(self._message) > HELD:
            passed += memoryview(self._message)[self._gone :]
            self._gone = len(self._message)
        self.has_passed |= is_whole
        return bytes(passed)

    def _size(self) -> int:
        """Of the message that is coming, with its head; of the head alone before that is there."""
        if len(self._message) < _HEAD:
            return _HEAD
        if self._message[0] != 0:
            raise Refused(
                "compressed messages are not accepted here; accepted: grpc-encoding identity",
                grpc.StatusCode.UNIMPLEMENTED,
            )
        size = int.from_bytes(self._message[1:_HEAD], "big")
        if size > self.message_bytes:
            raise Refused(
                f"a message of {size} bytes; accepted: at most {self.message_bytes}", grpc.StatusCode.RESOURCE_EXHAUSTED
            )
        return _HEAD + size

    def _check_pieces(self) -> None:
        """Each piece is a question to the guard, so that one byte a piece would keep it from others."""
        if self._pieces > _PIECES + len(self._message) // _SMALLEST_PIECE:
            raise Refused(
                f"a message in {self._pieces} pieces, of {len(self._message)} bytes so far; accepted: pieces of "
                f"{_SMALLEST_PIECE} bytes on average after the first {_PIECES}"
            )
