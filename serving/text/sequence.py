"""One continuation as an engine works on it: what is in the cache, and the text that is not yet sent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from language.sampling import SamplingParameters
from serving.text.detokenizer import IncrementalDetokenizer
from serving.text.request import Task, TextDelta, TokenLogprobs
from serving.text.token_spans import TokenSpans


@dataclass(eq=False)
class GenerationSequence:
    """A continuation that waits for a slot, or has one.

    Attributes:
        number: what the engine's owner calls it.
        limit: tokens that it may add.
        slot: where it is; below 0 while it waits.
        cancelled: nobody wants it any more.
        filled: prompt tokens that are in the cache.
        reported: prompt tokens after which the next one's log-probability is known, where it is wanted.
        prompt_logprobs: of the prompt, where wanted.
        shown, sent: generated tokens that were turned into text, and those of them that a delta has counted.
        text, logprobs: not yet sent.
        spans: generated tokens with log-probabilities whose text is held back.
    """

    number: int
    task: Task
    sampling: SamplingParameters
    limit: int
    detokenizer: IncrementalDetokenizer
    slot: int = -1
    cancelled: bool = False
    filled: int = 0
    reported: int = 0
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    shown: int = 0
    sent: int = 0
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    spans: TokenSpans[TokenLogprobs] = field(default_factory=TokenSpans)

    @property
    def client(self) -> str:
        """Whose it is."""
        return self.task.client

    @property
    def prefix(self) -> list[int]:
        """Prompt tokens that must be in the cache before the first step takes the last one."""
        return self.task.prompt[:-1]

    @property
    def reports_prompt(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are wanted."""
        return self.task.parameters.echo and self.task.parameters.logprobs is not None

    @property
    def is_watched(self) -> bool:
        """Whether each of its tokens must be looked at as soon as it is chosen."""
        return bool(self.task.parameters.stop) or self.sampling.logprobs is not None

    def show(self, text: str, last: bool) -> None:
        """Add what the detokenizer gave to the text, and its tokens' log-probabilities."""
        if text:
            self.text.append(text)
        self.logprobs += self.spans.show(len(text))
        if self.detokenizer.stopped:
            self.logprobs += [replace(entry, shown=size) for entry, size in filter(None, [self.spans.cut()])]
        elif last:
            self.logprobs += self.spans.rest()

    def take(self, finish_reason: str) -> TextDelta:
        """What was not yet sent."""
        delta = TextDelta(
            self.task.index, "".join(self.text), finish_reason, tuple(self.logprobs), self.shown - self.sent
        )
        self.sent = self.shown
        self.text.clear()
        self.logprobs.clear()
        return delta
