"""The metrics of a decoder's steps, of which there are hundreds a second: they are added up before they are counted."""

from __future__ import annotations

from serving.telemetry import definitions

_AT_ONCE = 64
"""Steps."""


class DecoderMetrics:
    """Counts the steps of one decoder; used by one thread.

    Args:
        model: whose decoder it is.
        slots: of the decoder.
    """

    def __init__(self, model: str, slots: int):
        self._slots = slots
        self._rows = definitions.BATCH_ROWS.labels(model)
        self._tokens = definitions.GENERATED_TOKENS.labels(model)
        self._used, self._free = (definitions.SLOTS.labels(model, state) for state in ("used", "free"))
        self._steps = self._new_tokens = 0
        self.flush(0)

    def step(self, texts: int, used: int) -> None:
        """So many texts have got a token each, and so many slots are used."""
        self._rows.observe(texts)
        self._new_tokens += texts
        self._steps += 1
        if self._steps >= _AT_ONCE:
            self.flush(used)

    def flush(self, used: int) -> None:
        """Count what was added up."""
        self._rows.flush()
        self._tokens.inc(self._new_tokens)
        self._steps = self._new_tokens = 0
        self._used.set(used)
        self._free.set(self._slots - used)
