"""Tokens per second: the book's loop, CTranslate2 and Reverie's engine, in one run on one machine.

    make bench-text            (or: python -m benchmarks.text [--run folder])

All have the same weights in the book's architecture, a finished `book` run's or random ones (the work does not
depend on the values), and sample 90 tokens after "this movie was" at temperature 0.7 from the 40 likeliest.
The end of a text is ignored by all, so all produce as many tokens.

- *The book* is listing 12-7 on Keras: the text is tokenized again for each word, the model run over 100
  positions, and one word drawn in NumPy (over all words: it has no top-k).
- *CTranslate2* gets a decoder without the book's second attention, which it cannot express: 9 % less work than
  the others. Of its compute types and of one or two workers the fastest counts; `*_one_worker` is its default.
- *Reverie*'s engine is measured as a library (`single`, `streams32`) and through Triton over gRPC, with the
  clients on the same cores. `*_context` is the engine's model and sampler at fixed context lengths.

Each side runs several times; the best counts, for all alike. Takes about four minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import ctranslate2
import keras
import numpy as np
import tensorflow as tf
import typer
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec
from reverie_client import Client

from benchmarks.timing import say
from export.language_model import variants
from export.language_model.export import round_to_float16, scoring_graph
from language.sampling import BatchSampler, SamplingParameters
from language.tokenizer import load_tokenizer
from language.vocabulary import Vocabulary
from registry import configuration
from serving.text.decoder import Decoder
from serving.text.parameters import GenerateParameters
from serving.text.pool import EnginePool
from serving.text.request import Collector
from serving.triton.server import TritonServer
from training.language_model import train
from training.language_model.model import LanguageModel
from training.language_model.train import LanguageModelTraining
from training.runs import Run

PROJECT = Path(__file__).resolve().parents[1]
PROMPT, NEW, TEMPERATURE, TOP_K, STREAMS, REPEATS = "this movie was", 90, 0.7, 40, 32, 5
ASKED: dict[str, Any] = {"max_tokens": NEW, "temperature": TEMPERATURE, "top_k": TOP_K, "ignore_eos": True}


def main(
    given: Annotated[
        Path | None, typer.Option("--run", help="A finished run of the preset book; default: random weights.")
    ] = None,
) -> None:
    """Measure everything and print one JSON line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Run(given) if given else random_run(folder / "run")
        model, vocabulary = train.load(run)
        assert isinstance(model, LanguageModel) and isinstance(vocabulary, Vocabulary), "not a run of the book's model"
        files = folder / "model_repository" / "language_model" / "1"
        export(model, vocabulary, files)
        translators = ctranslate2_model(model, vocabulary, folder / "ctranslate2")
        result: dict[str, Any] = {"weights": run.path.name if given else "random", "cores": os.cpu_count()}
        result["book_tokens_per_s"] = book_rate(model, vocabulary)
        # Alternating, so that a slower minute of the machine meets both sides.
        rates: dict[str, list[float]] = {}
        for part in range(3):
            say(f"round {part + 1} of 3")
            for key, rate in (engine_rates(files) | ctranslate2_rates(translators)).items():
                rates.setdefault(key, []).append(rate)
        result |= {key: round(max(values), 1) for key, values in rates.items()}
        result |= grpc_rates(folder / "model_repository")
        result |= context_rates(files)
    print(json.dumps(result | ratios(result)))


def ratios(result: dict) -> dict[str, float]:
    """The figures that compare two sides."""
    single, many = result["single_tokens_per_s"], result["streams32_tokens_per_s"]
    return {
        "speedup_vs_book": round(single / result["book_tokens_per_s"], 1),
        "speedup_vs_ctranslate2_single": round(single / result["ctranslate2_single_tokens_per_s"], 2),
        "speedup_vs_ctranslate2_32": round(many / result["ctranslate2_32_tokens_per_s"], 2),
        "grpc_fraction": round(result["grpc_streams32_tokens_per_s"] / many, 3),
    }


def random_run(path: Path) -> Run:
    """A run of the book's sizes that was never trained."""
    keras.utils.set_random_seed(1)
    config = LanguageModelTraining()
    run = Run.create(train.KIND, asdict(config), path)
    train.build(config).save_weights(run.weights)
    known = ["this", "movie", "was"]
    words = ["", "[UNK]", *known, *(f"word{i}" for i in range(config.model.vocabulary_size - 2 - len(known)))]
    Vocabulary(words).save(run.path)
    run.finish({})
    return run


def export(model: LanguageModel, vocabulary: Vocabulary, files: Path) -> None:
    """A served version of `model`, calibrated on text of its own, beside the Python models."""
    say("exporting")
    files.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = rng.integers(2, model.config.vocabulary_size, (4, model.config.positions))
    round_to_float16(model)
    graphs = variants.graphs(model, variants.calibrate(model, rows))
    variants.save({"model": scoring_graph(model), **graphs}, files)
    vocabulary.save(files)
    text = configuration.language_model(model.config.positions).text()
    (files.parent / "config.pbtxt").write_text(text)
    repository = files.parents[1]
    for part in (PROJECT / "model_repository" / "generate").rglob("*"):
        if part.is_file() and "__pycache__" not in part.parts:
            target = repository / "generate" / part.relative_to(PROJECT / "model_repository" / "generate")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(part.read_bytes())


# The book.


def book_rate(model: LanguageModel, vocabulary: Vocabulary, words: int = 20) -> float:
    """Listing 12-7: tokenize, run the model over all positions, draw, append the word, again."""
    say("the book's loop")
    vectorize = keras.layers.TextVectorization(
        max_tokens=len(vocabulary), output_sequence_length=model.config.positions, vocabulary=list(vocabulary.words[2:])
    )
    rng = np.random.default_rng(1)

    def generate() -> None:
        sentence = PROMPT
        length = len(vocabulary.encode(PROMPT))
        for i in range(words):
            predictions = model(vectorize(tf.constant([sentence])))
            probabilities = keras.ops.softmax(predictions[0, length - 1 + i]).numpy()
            sentence += " " + vocabulary.words[book_sample_next(probabilities, rng)]

    generate()
    return round(best_rate(generate, words, 2), 1)


def book_sample_next(predictions: np.ndarray, rng: np.random.Generator) -> int:
    """Listing 12-7's `sample_next`."""
    predictions = np.log(np.asarray(predictions).astype("float64")) / TEMPERATURE
    exponentials = np.exp(predictions)
    probabilities = exponentials / np.sum(exponentials)
    return int(np.argmax(rng.multinomial(1, probabilities)))


# CTranslate2.


def ctranslate2_model(model: LanguageModel, vocabulary: Vocabulary, folder: Path) -> list[ctranslate2.Generator]:
    """The model in CTranslate2's format, loaded in every compute type, with one and with two workers."""
    say("converting for CTranslate2")
    spec = TransformerDecoderModelSpec.from_config(
        1,
        model.config.num_heads,
        pre_norm=False,
        activation=common_spec.Activation.RELU,
        head_dim=model.config.embed_dim,
    )
    fill_spec(spec.decoder, model)
    spec.register_vocabulary(["</s>", "<unk>", *vocabulary.words[2:]])
    spec.config.layer_norm_epsilon = 1e-3
    spec.config.bos_token = spec.config.eos_token = "</s>"
    spec.config.unk_token = "<unk>"
    spec.validate()
    spec.optimize(quantization=None)
    folder.mkdir()
    spec.save(str(folder))
    types = sorted(ctranslate2.get_supported_compute_types("cpu"))
    workers = [{"inter_threads": 1, "intra_threads": 2}, {"inter_threads": 2, "intra_threads": 1}]
    return [ctranslate2.Generator(str(folder), "cpu", compute_type=kind, **w) for kind in types for w in workers]


def fill_spec(decoder, model: LanguageModel) -> None:
    """Put the weights where CTranslate2 wants them."""

    def values(variable) -> np.ndarray:
        return keras.ops.convert_to_numpy(variable).astype(np.float32)

    def linear(spec, weight: np.ndarray, bias: np.ndarray) -> None:
        spec.weight, spec.bias = np.ascontiguousarray(weight.T), bias.reshape(-1)

    def norm(spec, layer) -> None:
        spec.gamma, spec.beta = values(layer.gamma), values(layer.beta)

    source, attention, layer = model.decoder, model.decoder.attention_1, decoder.layer[0]
    width = model.config.embed_dim
    decoder.scale_embeddings = False
    decoder.embeddings.weight = values(model.embedding.token_embeddings.embeddings)
    decoder.position_encodings.encodings = values(model.embedding.position_embeddings.embeddings)
    three = [attention.query_dense, attention.key_dense, attention.value_dense]
    kernel = np.concatenate([values(dense.kernel).reshape(width, -1) for dense in three], axis=1)
    linear(layer.self_attention.linear[0], kernel, np.concatenate([values(d.bias).reshape(-1) for d in three]))
    output = attention.output_dense
    linear(layer.self_attention.linear[1], values(output.kernel).reshape(-1, width), values(output.bias))
    norm(layer.self_attention.layer_norm, source.layernorm_1)
    expand, contract = source.dense_proj.layers
    linear(layer.ffn.linear_0, values(expand.kernel), values(expand.bias))
    linear(layer.ffn.linear_1, values(contract.kernel), values(contract.bias))
    norm(layer.ffn.layer_norm, source.layernorm_3)
    linear(decoder.projection, values(model.head.kernel), values(model.head.bias))


def ctranslate2_rates(generators: list[ctranslate2.Generator]) -> dict[str, float]:
    """The fastest configuration's tokens per second for one prompt, and for 32 at once."""

    def rate(generator: ctranslate2.Generator, prompts: int) -> float:
        def generate() -> None:
            results = generator.generate_batch(
                [PROMPT.split()] * prompts, max_length=NEW, min_length=NEW, sampling_topk=TOP_K,
                sampling_temperature=TEMPERATURE, include_prompt_in_result=False, beam_size=1,
                max_batch_size=prompts // generator.num_generators if prompts > 1 else 1,
            )  # fmt: skip
            assert all(len(r.sequences_ids[0]) == NEW for r in results)

        generate()
        return best_rate(generate, prompts * NEW, REPEATS)

    singles = [generator for generator in generators if generator.num_generators == 1]
    return {
        "ctranslate2_single_tokens_per_s": max(rate(g, 1) for g in singles),
        "ctranslate2_32_tokens_per_s": max(rate(g, STREAMS) for g in generators),
        "ctranslate2_32_one_worker_tokens_per_s": max(rate(g, STREAMS) for g in singles),
    }


# Reverie.


def engine_rates(files: Path) -> dict[str, float]:
    """Tokens per second of one stream, and of 32 that are replaced as they end."""
    engine = EnginePool(files)

    def generate(requests: int) -> None:
        collectors = [Collector() for _ in range(requests)]
        for seed, collector in enumerate(collectors):
            engine.submit(PROMPT, GenerateParameters(seed=seed, stream=True, **ASKED), collector)
        for collector in collectors:
            collector.deltas()

    try:
        generate(STREAMS)
        return {
            "single_tokens_per_s": best_rate(lambda: generate(1), NEW, 4 * REPEATS),
            "streams32_tokens_per_s": best_rate(lambda: generate(8 * STREAMS), 8 * STREAMS * NEW, REPEATS),
        }
    finally:
        engine.close()


def grpc_rates(repository: Path) -> dict[str, float]:
    """Tokens per second of 32 streams through Triton, and the median time to a first token, loaded and idle."""
    say("through Triton")
    with (
        TritonServer(repository, log=repository.parent / "triton.log") as server,
        Client(server.address.grpc) as client,
    ):

        def stream(seed: int) -> float:
            started, first = time.perf_counter(), 0.0
            for piece in client.generate(PROMPT, seed=seed, **ASKED):
                first = first or time.perf_counter() - started
                finish_reason = piece.finish_reason
            assert finish_reason == "length"
            return first

        with ThreadPoolExecutor(STREAMS) as pool:
            firsts: list[float] = []
            many = lambda: firsts.extend(pool.map(stream, range(8 * STREAMS)))  # noqa: E731
            many()
            firsts.clear()
            rate = best_rate(many, 8 * STREAMS * NEW, REPEATS)
        idle = [stream(seed) for seed in range(50)]
    return {
        "grpc_streams32_tokens_per_s": round(rate, 1),
        "first_token_ms_p50": round(1e3 * statistics.median(firsts), 2),
        "first_token_idle_ms_p50": round(1e3 * statistics.median(idle), 2),
    }


def context_rates(files: Path) -> dict[str, dict[str, float]]:
    """Tokens per second of the model and the sampler with a given number of tokens before them."""
    say("against context length")
    result: dict[str, dict[str, float]] = {}
    for rows in (1, STREAMS):
        decoder = Decoder(files, "int8", rows, threads=0)
        sampler = BatchSampler(rows, len(load_tokenizer(files)), draws=10_000)
        for slot in range(rows):
            sampler.start(slot, SamplingParameters(TEMPERATURE, TOP_K, banned=(1,)), (slot,))
            decoder.prefill(slot, [2] * (decoder.positions - 1))
        for context in (1, 25, 50, 75, decoder.positions):
            tokens, positions = np.full(rows, 2), np.full(rows, context - 1)

            def steps(tokens=tokens, positions=positions, decoder=decoder, sampler=sampler) -> None:
                for _ in range(100):
                    sampler.choose(*decoder.step(tokens, positions))

            steps()
            result.setdefault(f"streams{rows}_by_context", {})[str(context)] = round(best_rate(steps, 100 * rows, 5), 1)
    return result


def best_rate(function: Callable[[], None], tokens: int, repeats: int) -> float:
    """Tokens per second of the fastest of `repeats` calls that each make `tokens`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return tokens / min(seconds)


if __name__ == "__main__":
    typer.run(main)
