"""Whose texts take part in a step: every client gets the same time of a decoder, however many texts it has.

A step of sixteen texts takes several times as long as a step of one. If all took part in every step, a client with
sixteen would slow down one with a single text that much. So a client that has had more time than another sits out
until the other has caught up. Knows nothing about texts.
"""

from __future__ import annotations

from collections.abc import Mapping

FREE_TEXTS = 4
"""A client with fewer counts as one with so many: steps together are cheaper, so a few texts more are no reason."""
SLACK_SECONDS = 0.0005
"""So far may a client be ahead of another and take part."""


class StepShares:
    """Counts each client's time; used by one thread."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._level = 0.0

    @property
    def remembered(self) -> int:
        """Clients whose time is known."""
        return len(self._used)

    def riders(self, texts: Mapping[str, int]) -> set[str]:
        """The clients that take part in the next step; at least one.

        Args:
            texts: how many each client has, of all that could take part; at least one client.
        """
        self._level = max(self._level, min((self._used[c] for c in texts if c in self._used), default=0.0))
        # Who was away has saved nothing up, and who was ahead still is.
        self._used = {client: used for client, used in self._used.items() if used >= self._level}
        for client in texts:
            self._used.setdefault(client, self._level)
        return {client for client in texts if self._used[client] <= self._level + SLACK_SECONDS}

    def charge(self, texts: Mapping[str, int], seconds: float) -> None:
        """Count a step that took so long, or the reading of a prompt.

        Args:
            texts: how many of each client took part; their clients were among those of `riders`.
        """
        weights = {client: max(count, FREE_TEXTS) for client, count in texts.items()}
        total = sum(weights.values())
        for client, weight in weights.items():
            self._used[client] = self._used.get(client, 0.0) + seconds * weight / total
