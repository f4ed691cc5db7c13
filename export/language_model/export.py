"""A language model run to a version folder.

`model.onnx` (for Triton: the log-probability of every token of a text), decode and prefill graphs in three
precisions (for the text engine), `weights.bin` that all of them share, and the tokenizer.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
from keras import ops

from export.language_model import variants
from export.onnx import conversion, parity
from registry import configuration
from registry.staging import ExportResult
from reverie.onnx_sessions import open_session
from reverie.progress import say
from training.language_model import train
from training.runs import Run

NAME = "language_model"
TOLERANCE = parity.Tolerance(largest=1e-4, mean=1e-5, unit="logits")
"""Of the float32 decode graph against Keras with the same float16-rounded weights."""
MAX_LOSS = 0.01
"""Share by which another precision, or rounding the weights, may raise the perplexity."""
_CALIBRATION_ROWS = 32
_ROUNDED_FROM = 1024


def export_language_model(run: Run, folder: Path) -> ExportResult:
    """Write the version's files into `folder`.

    Raises:
        ParityError: a graph departs from Keras.
        PrecisionError: float16 or int8 raises the perplexity of held-out text by more than `MAX_LOSS`.
    """
    model, tokenizer = train.load(run)
    rows, padding = held_out(run, model, tokenizer)
    round_to_float16(model)
    say(f"{NAME}: converting to ONNX, as {', '.join(variants.PRECISIONS)}")
    graphs = variants.graphs(model, variants.calibrate(model, _whole(rows, padding)[:_CALIBRATION_ROWS]))
    say(f"{NAME}: comparing with Keras")
    measured = check_decoding(model, graphs["decode_float32"], rows[:8, :-1])
    scoring = scoring_graph(model)
    check_scoring(model, scoring, rows[:8, :-1])
    variants.save({"model": scoring, **graphs}, folder)
    tokenizer.save(folder)
    say(f"{NAME}: measuring the perplexity of every precision on {len(rows)} held-out rows")
    perplexities = check_precisions(folder, rows, len(tokenizer), padding)
    return ExportResult(
        NAME,
        configuration.language_model(model.config.positions),
        measured,
        {"perplexity": perplexities},
        {"token_ids": rows[:8]},
    )


def held_out(run: Run, model: train.Model, tokenizer) -> tuple[np.ndarray, int | None]:
    """Rows of ids that the run did not train on, int (rows, positions + 1); and the id that fills them up, if any."""
    rows = np.load(run.path / train.HELD_OUT_FILE).astype(np.int32)
    return rows, None if tokenizer.begin else tokenizer.end


def round_to_float16(model: keras.Model) -> None:
    """Round the large weights as they are stored, so that what is compared is what is served."""
    for variable in model.variables:
        if (len(variable.shape) > 1 or np.prod(variable.shape) >= _ROUNDED_FROM) and str(variable.dtype) == "float32":
            variable.assign(ops.convert_to_numpy(variable).astype(np.float16).astype(np.float32))


def check_decoding(model: train.Model, graph: onnx.ModelProto, tokens: np.ndarray) -> parity.Parity:
    """Compare the logits of a decode graph with Keras' at every position of `tokens` (rows, tokens)."""
    session = open_session(graph)
    decoded = [session.run(["logits"], variants.sequence_feeds(session, row[None]))[0][0] for row in tokens]
    expected = ops.convert_to_numpy(model(tokens))
    with _naming_the_layer(lambda: _decoded_stages(model, graph, tokens[:1])):
        return parity.check(np.array(decoded)[..., : model.config.vocabulary_size], expected, TOLERANCE, NAME)


def scoring_graph(model: train.Model) -> onnx.ModelProto:
    """token_ids int32 (batch, tokens) to token_logprobs float32 (batch, tokens - 1); weights stored as float16."""
    graph = conversion.convert(
        lambda token_ids: next_token_logprobs(model, token_ids),
        [tf.TensorSpec((None, None), tf.int32, name="token_ids")],
        output="token_logprobs",
        name=NAME,
    )
    return conversion.store_weights_as_float16(graph)


def next_token_logprobs(model: train.Model, token_ids):
    """Log-probability of every token but the first, given those before it: (batch, tokens - 1)."""
    logprobs = ops.log_softmax(model(token_ids[:, :-1]))
    return tf.gather(logprobs, token_ids[:, 1:], batch_dims=2)


def check_scoring(model: train.Model, graph: onnx.ModelProto, tokens: np.ndarray) -> parity.Parity:
    """Compare the scoring graph with Keras on `tokens` (rows, tokens)."""
    tolerance = parity.Tolerance(TOLERANCE.largest, TOLERANCE.mean, "nats")
    expected = ops.convert_to_numpy(next_token_logprobs(model, tf.constant(tokens)))
    with _naming_the_layer(lambda: _converted_stages(model, tokens)):
        return parity.check(parity.run_graph(graph, {"token_ids": tokens}), expected, tolerance, f"{NAME} scores")


Stages = Iterable[tuple[str, np.ndarray, np.ndarray]]
"""A layer's name, what the graph makes of the tokens there, and what Keras does."""


@contextlib.contextmanager
def _naming_the_layer(stages: Callable[[], Stages]) -> Iterator[None]:
    """Say in a ParityError which layer is the first to depart."""
    try:
        yield
    except parity.ParityError as error:
        raise parity.ParityError(f"{error}; {parity.first_departure(stages())}") from None


def _decoded_stages(model: train.Model, graph: onnx.ModelProto, tokens: np.ndarray) -> Stages:
    """Inside a decode graph, for one row; its tensors have the names of the stages."""
    expected = {layer: ops.convert_to_numpy(output) for layer, output in model.stages(tokens)}
    found = parity.probe(graph, variants.sequence_feeds(open_session(graph), tokens), list(expected))
    return zip(expected, found, expected.values(), strict=True)


def _converted_stages(model: train.Model, tokens: np.ndarray) -> Stages:
    """Of the scoring graph, whose tensors have the converter's names: each stage is converted by itself."""
    for i, (layer, output) in enumerate(model.stages(tf.constant(tokens))):
        stage = conversion.convert(
            lambda ids, i=i: next(itertools.islice(model.stages(ids), i, None))[1],
            [tf.TensorSpec((None, None), tf.int32, name="token_ids")],
            output="stage",
            name=NAME,
        )
        (found,) = parity.probe(stage, {"token_ids": tokens}, ["stage"])
        yield layer, found, ops.convert_to_numpy(output)


def check_precisions(folder: Path, rows: np.ndarray, vocabulary_size: int, padding: int | None) -> dict[str, float]:
    """Perplexity on `rows` of every precision in `folder`.

    Raises:
        PrecisionError: one is worse than float32 by more than `MAX_LOSS`.
    """
    found = {
        precision: variants.perplexity(folder / f"decode_{precision}.onnx", rows, vocabulary_size, padding)
        for precision in variants.PRECISIONS
    }
    for precision, perplexity in found.items():
        loss = perplexity / found["float32"] - 1
        if not loss <= MAX_LOSS:
            raise parity.PrecisionError(
                f"{NAME}: {precision} has perplexity {perplexity:.2f}, float32 {found['float32']:.2f}; "
                f"accepted: at most {MAX_LOSS:.0%} more; nothing was published"
            )
    return found


def _whole(rows: np.ndarray, padding: int | None) -> np.ndarray:
    """The inputs of rows without padding; of all rows if there is none such."""
    whole = rows if padding is None else rows[(rows[:, :-1] != padding).all(axis=1)]
    return (whole if len(whole) else rows)[:, :-1]
