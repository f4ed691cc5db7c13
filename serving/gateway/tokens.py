"""The tokenizer of the language model that callers get, read from the repository's files."""

from __future__ import annotations

import logging
from pathlib import Path

from reverie_client.labels import Labels

from language.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger("reverie")

_MODEL = "language_model"


class StableTokenizer:
    """The stable version's tokenizer, read again when another version becomes stable.

    Args:
        repository: the model repository.
    """

    def __init__(self, repository: Path):
        self._folder = repository / _MODEL
        self._changed_at = 0
        self._tokenizer: Tokenizer | None = None

    def find(self) -> Tokenizer | None:
        """The tokenizer; None where there is no repository with a language model."""
        configuration = self._folder / "config.pbtxt"
        try:
            changed_at = configuration.stat().st_mtime_ns
            if changed_at != self._changed_at:
                self._tokenizer = load_tokenizer(self._folder / str(Labels.read(configuration).stable))
                self._changed_at = changed_at
        except (OSError, ValueError) as error:
            log.warning("no tokenizer in %s: %s", self._folder, error)
            self._tokenizer = None
        return self._tokenizer
