"""Messages of an optimization, encoded and sent in a thread of their own.

So a preview hardly delays the steps: Pillow and TensorFlow both release Python's lock while they work.
Knows nothing about Triton; a record goes to whatever `send` is given.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from imaging import images
from synthesis.progress import Progress

PREVIEW_QUALITY = 85
QUEUED_MESSAGES = 4
"""Messages that may wait to be encoded; the optimization then waits for them rather than fill the memory."""


Encode = Callable[[np.ndarray, str, int], bytes]
"""From a picture, a format and a quality to a file."""


class BackgroundSender:
    """Sends records in order; a failure of `send` is raised at the next record, or when the block ends."""

    def __init__(self, send: Callable[[Progress], None]):
        self._send = send
        self._thread = ThreadPoolExecutor(1)
        self._sent: list[Future[None]] = []

    def __enter__(self) -> BackgroundSender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whoever ends the stream must be the last to speak: nothing may be sent after its final response.
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.flush()

    @property
    def pending(self) -> int:
        """Records that are not yet sent."""
        return sum(not sent.done() for sent in self._sent)

    def send(self, progress: Progress) -> None:
        """Send a record soon; raises what an earlier one failed with, `Cancelled` for example."""
        while self._sent and (self._sent[0].done() or len(self._sent) >= QUEUED_MESSAGES):
            self._sent.pop(0).result()
        self._sent.append(self._thread.submit(self._send, progress))

    def flush(self) -> None:
        """Wait until all is sent."""
        while self._sent:
            self._sent.pop(0).result()


def encode_preview(progress: Progress, longest: int, encode: Encode = images.encode) -> bytes:
    """A record's picture as JPEG, its longer side at most `longest` (0 for any); frames of a film stay whole.

    Args:
        encode: makes the file.
    """
    if progress.image is None:
        return b""
    is_small = longest and not progress.frame
    image = images.fit_within(progress.image, longest) if is_small else progress.image
    return encode(image, "jpeg", PREVIEW_QUALITY)
