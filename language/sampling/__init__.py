"""Choose next tokens from logits: the book's softmax temperature (listings 12-1 and 12-7), for many rows at once.

The one place for sampling mathematics; every name that others use is imported from here. `BatchSampler` (`batch_sampler`)
draws a token for each row of a batch. Every row has `SamplingParameters` (`parameters`) and random numbers of its own, so
what a request gets depends on nothing else in the batch. A row passes four stations, in this order:

1. `penalties`: biases and bans are added to single logits, then the repetition, frequency and presence penalties.
2. `distribution`: the logits over the temperature become weights, relative to the row's largest.
3. `distribution`: min-p, top-k and top-p (the nucleus) leave a part of them.
4. `distribution`: one random number picks a token, by the inverse of the cumulative distribution.

A row with temperature 0 is greedy: it takes the first of the largest logits. Here we depart from the book, whose code
divides by 0; and as weights are relative to the largest, a small temperature cannot underflow to 0/0. Log-probabilities
are those of the model, before any of this. Nothing here knows about text, models or requests.
"""

from language.sampling.batch_sampler import BatchSampler, sample
from language.sampling.distribution import FINE_GROUP, Logprobs, log_probabilities, padded_width
from language.sampling.parameters import SamplingParameters

__all__ = [
    "FINE_GROUP",
    "BatchSampler",
    "Logprobs",
    "SamplingParameters",
    "log_probabilities",
    "padded_width",
    "sample",
]
