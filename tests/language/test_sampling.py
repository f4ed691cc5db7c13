"""The sampler against a plain reference: parameters, independence of rows, seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from language.sampling import FINE_GROUP, BatchSampler, SamplingParameters, log_probabilities, padded_width, sample
from language.sampling.distribution import draw_among, draw_by_groups


def reference(logits: np.ndarray, sampling: SamplingParameters, prompt: list[int], text: list[int]) -> np.ndarray:
    """Probabilities (vocabulary,) by the definitions, in float64."""
    x = logits.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        x[token] += bias
    x[list(sampling.banned)] = -np.inf
    for token in set(prompt) | set(text) if sampling.penalizes else ():
        x[token] = x[token] / sampling.repetition_penalty if x[token] > 0 else x[token] * sampling.repetition_penalty
    for token in set(text):
        x[token] -= sampling.frequency_penalty * text.count(token) + sampling.presence_penalty
    if sampling.temperature == 0:
        return np.eye(len(x))[x.argmax()]
    weights = np.exp((x - x.max()) / sampling.temperature)
    weights[weights < sampling.min_p] = 0
    if sampling.top_k:
        weights[weights < np.sort(weights)[-min(sampling.top_k, len(x))]] = 0
    if sampling.top_p < 1:
        ordered = np.sort(weights)[::-1]
        cumulative = np.cumsum(ordered)
        size = int((cumulative < sampling.top_p * cumulative[-1]).sum())
        weights[weights < ordered[min(size, len(x) - 1)]] = 0
    return weights / weights.sum()


def random_sampling(rng: np.random.Generator) -> SamplingParameters:
    return SamplingParameters(
        temperature=rng.choice([0, 0.3, 0.7, 1, 1.5]),
        top_k=int(rng.choice([0, 1, 5, 40, 100, 500, 3000])),
        top_p=rng.choice([1, 0.9, 0.5, 0.1]),
        min_p=rng.choice([0, 0, 0.05, 0.5]),
        repetition_penalty=rng.choice([1, 1.3]),
        frequency_penalty=rng.choice([0, 0.5]),
        presence_penalty=rng.choice([0, -0.5]),
        logit_bias={3: 5.0, 7: -100.0} if rng.random() < 0.3 else {},
        banned=(1,),
        logprobs=3 if rng.random() < 0.2 else None,
    )


def buffer(sampler: BatchSampler, logits: np.ndarray) -> np.ndarray:
    """`logits` (rows, vocabulary) as a model hands them over."""
    filled = np.full((len(logits), sampler.width), -1e4, np.float32)
    filled[:, : logits.shape[1]] = logits
    return filled


@pytest.mark.slow
@pytest.mark.parametrize("size", [300, 8192, 15000])
def test_random_parameters_choose_what_the_definitions_say(size):
    rng = np.random.default_rng(size)
    for trial in range(4):
        rows = [random_sampling(rng) for _ in range(32)]
        prompts = [rng.integers(0, size, 5).tolist() for _ in rows]
        sampler = BatchSampler(len(rows), size, draws=8)
        for slot, sampling in enumerate(rows):
            sampler.start(slot, sampling, (trial, slot), prompts[slot])
        draws = [np.random.Generator(np.random.Philox(np.random.SeedSequence((trial, s)))).random(8) for s in range(32)]
        texts: list[list[int]] = [[] for _ in rows]
        for step in range(5):
            logits = rng.normal(size=(len(rows), size), scale=2.5).astype(np.float32)
            chosen = sampler.choose(buffer(sampler, logits))
            for slot, sampling in enumerate(rows):
                cumulative = np.cumsum(reference(logits[slot], sampling, prompts[slot], texts[slot]))
                draw = 0.0 if sampling.temperature == 0 else draws[slot][step]
                assert chosen[slot] == np.searchsorted(cumulative, draw * cumulative[-1], side="right"), sampling
                texts[slot].append(int(chosen[slot]))


def test_a_row_gets_the_same_tokens_alone_in_a_batch_and_after_a_move():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 9, 500)).astype(np.float32)
    wanted = SamplingParameters(temperature=0.8, top_k=30, repetition_penalty=1.2)

    def run(rows: int, slot: int, target: int) -> list[int]:
        sampler = BatchSampler(9, 500, draws=10)
        for other in range(rows):
            sampler.start(other, random_sampling(rng), (other,))
        sampler.start(slot, wanted, (42,), [3, 4])
        tokens = []
        for step in range(6):
            if step == 3 and target != slot:
                sampler.move(slot, target)
                slot = target
            batch = logits[step, :rows].copy()
            batch[slot] = logits[step, 0]
            tokens.append(int(sampler.choose(buffer(sampler, batch))[slot]))
        return tokens

    alone = run(1, 0, 0)
    assert run(9, 5, 5) == alone
    assert run(9, 8, 2) == alone


def test_maxima_from_the_model_change_nothing():

    tokens = []
    for given_maxima in (False, True):
        sampler = BatchSampler(4, 1000, draws=2)
        for slot in range(4):
            sampler.start(slot, SamplingParameters(top_k=20, banned=(1,)), (slot,))
        logits = buffer(sampler, np.random.default_rng(3).normal(size=(4, 1000)).astype(np.float32))
        maxima = logits.reshape(4, -1, FINE_GROUP).max(axis=2) if given_maxima else None
        tokens.append(sampler.choose(logits, maxima).tolist())
    assert tokens[0] == tokens[1]


def test_greedy_takes_the_first_of_the_likeliest_and_leaves_its_neighbors_alone():
    logits = np.zeros((3, 200), np.float32)
    logits[1, [50, 120]] = 9.0
    chosen = []
    for greedy in (True, False):
        sampler = BatchSampler(3, 200, draws=1)
        for slot in range(3):
            sampler.start(slot, SamplingParameters(temperature=0 if greedy and slot == 1 else 1.0), (slot,))
        chosen.append(sampler.choose(buffer(sampler, logits)).tolist())
    assert chosen[0][1] == 50
    assert [chosen[0][0], chosen[0][2]] == [chosen[1][0], chosen[1][2]]


def test_a_higher_temperature_spreads_the_choices():
    logits = np.random.default_rng(0).normal(size=100, scale=2).astype(np.float32)
    rng = np.random.default_rng(1)
    entropies = []
    for temperature in (0.2, 0.7, 1.5):
        counts = np.bincount([sample(logits, rng, temperature) for _ in range(400)], minlength=100) / 400
        entropies.append(-(counts[counts > 0] * np.log(counts[counts > 0])).sum())
    assert entropies[0] + 0.5 < entropies[1] < entropies[2] - 0.3


@given(st.integers(0, 2**32), st.integers(1, 60), st.sets(st.integers(0, 49), max_size=40))
def test_neither_a_banned_token_nor_one_outside_top_k_is_chosen(seed, top_k, banned):
    logits = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    allowed = logits.copy()
    allowed[list(banned)] = -np.inf
    token = sample(logits, np.random.default_rng(seed), 1.5, top_k, tuple(banned))
    assert token not in banned
    assert (allowed > allowed[token]).sum() < top_k


@pytest.mark.parametrize("draw", [np.nextafter(1.0, 0.0), 1.0])
def test_the_largest_possible_draw_chooses_a_token_that_has_weight(draw):
    draws = np.array([draw])
    weights = np.zeros((1, padded_width(300)), np.float32)
    weights[0, [10, 20, 30]] = 1.0
    assert draw_by_groups(weights, draws) == 30
    assert draw_among(np.array([[10, 20, 30, 0]]), np.array([[1.0, 1.0, 1.0, 0.0]]), draws) == 30


def test_log_probabilities_are_those_of_the_model():
    logits = np.random.default_rng(0).normal(size=40).astype(np.float32)
    found = log_probabilities(logits, 7, 40)
    assert np.exp([value for _, value in found.top]).sum() == pytest.approx(1)
    assert dict(found.top)[7] == pytest.approx(found.chosen)
    assert [t for t, _ in found.top] == np.argsort(-logits).tolist()


def test_a_seed_means_the_same_tokens_in_every_release():
    sampler = BatchSampler(1, 1000, draws=8)
    sampler.start(0, SamplingParameters(), (7, 0))
    logits = np.zeros((1, 1000), np.float32)
    uniforms = np.random.Generator(np.random.Philox(np.random.SeedSequence((7, 0)))).random(8)
    tokens = [int(sampler.choose(buffer(sampler, logits))[0]) for _ in range(8)]
    assert tokens == [int(u * 1000) for u in uniforms]
