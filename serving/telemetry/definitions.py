"""Every metric of ours, once: its name, its unit, its labels and what it means.

Processes measure without talking to each other: where `PROMETHEUS_MULTIPROC_DIR` names a folder, prometheus_client keeps
each process's values in a file there, and `exporter` adds them up. No label holds what a client sent: models, versions,
statuses and states are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from serving.telemetry.batched_histogram import BatchedHistogram
from serving.telemetry.sampled_counter import SampledCounter

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder of the processes' values; read by prometheus_client when it is imported."""

disable_created_metrics()  # When a counter began is in no table, and not kept in multi-process mode either.
REGISTRY = CollectorRegistry()
DEFINITIONS: list[Definition] = []
"""In the order of the documentation's table."""

AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram, BatchedHistogram, SampledCounter)


@dataclass(frozen=True)
class Definition:
    """A metric, as the documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


_COARSE = (1.0, 1.3, 1.8, 2.4, 3.2, 4.2, 5.6, 7.5)
_FINE = (1.0, 1.15, 1.33, 1.54, 1.78, 2.05, 2.37, 2.74, 3.16, 3.65, 4.22, 4.87, 5.62, 6.49, 7.5, 8.66)
"""Steps of a decade. One bucket further, a time is longer by 15 %, which is less than a canary may be slower by."""


def _series(smallest: float, largest: float, steps: tuple[float, ...]) -> tuple[float, ...]:
    """Bounds of buckets in seconds, evenly spaced by their ratio."""
    bounds = [float(f"{step}e{decade}") for decade in range(-6, 6) for step in steps]
    return tuple(bound for bound in bounds if smallest <= bound <= largest)


REQUEST_SECONDS_BOUNDS = _series(0.001, 10, _FINE) + _series(13, 1800, _COARSE)
_WAIT_SECONDS = _series(0.001, 1800, _COARSE)
_MESSAGE_SECONDS = _series(0.0001, 10, _COARSE)
_ROWS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 128)
_OF_MODEL = ("model", "version")


def _define(metric: AnyMetric, name: str, kind: str, labels: tuple[str, ...], meaning: str) -> AnyMetric:
    DEFINITIONS.append(Definition(name, kind, labels, meaning))
    return metric


def _counter(name: str, meaning: str, *labels: str, registry: CollectorRegistry = REGISTRY) -> Counter:
    metric = Counter(name, meaning, labels, registry=registry)
    return _define(metric, f"{name}_total", "counter", labels, meaning)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    metric = Gauge(name, meaning, labels, registry=REGISTRY, multiprocess_mode="livesum")
    return _define(metric, name, "gauge", labels, meaning)


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    metric = Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)
    return _define(metric, name, "histogram", labels, meaning)


def _batched(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> BatchedHistogram:
    return _define(BatchedHistogram(name, meaning, labels, buckets, REGISTRY), name, "histogram", labels, meaning)


def _sampled(name: str, meaning: str, label: str) -> SampledCounter:
    metric = SampledCounter(name, meaning, label, SUPERVISOR_REGISTRY)
    return _define(metric, f"{name}_total", "counter", (label,), meaning)


REQUESTS = _counter(
    "reverie_requests",
    "Requests that were answered, refused, failed or cancelled, by gRPC status; UNAVAILABLE is a full queue or a part "
    "that is being started again.",
    *_OF_MODEL,
    "status",
)
REQUEST_SECONDS = _histogram(
    "reverie_request_seconds",
    "From a request's arrival at its model to its last message; of those answered with OK.",
    REQUEST_SECONDS_BOUNDS,
    *_OF_MODEL,
)
QUEUE_SECONDS = _histogram(
    "reverie_queue_seconds",
    "From a request's arrival at its model until work on it began.",
    _WAIT_SECONDS,
    *_OF_MODEL,
)
FIRST_MESSAGE_SECONDS = _histogram(
    "reverie_first_message_seconds",
    "From a request's arrival to its first message; of text, the time to the first token.",
    _WAIT_SECONDS,
    *_OF_MODEL,
)
BETWEEN_MESSAGES_SECONDS = _batched(
    "reverie_between_messages_seconds",
    "From one message of a stream to the next.",
    _MESSAGE_SECONDS,
    *_OF_MODEL,
)
IN_FLIGHT = _gauge(
    "reverie_in_flight", "Requests that wait for work to begin, or that are worked on (running).", *_OF_MODEL, "state"
)
PROMPT_TOKENS = _counter("reverie_prompt_tokens", "Tokens of prompts that were taken in.", "model")
GENERATED_TOKENS = _counter("reverie_generated_tokens", "Tokens that were generated.", "model")
PIXELS = _counter("reverie_pixels", "Pixels of the pictures and video frames that were made.", "model")
STEPS = _counter("reverie_optimization_steps", "Steps of DeepDream and of style transfer.", "model")
BATCH_ROWS = _batched(
    "reverie_decode_batch_rows", "Texts that shared a step of the decoder; of every step.", _ROWS, "model"
)
SLOTS = _gauge("reverie_slots", "Slots of the decoders, used by a text or free.", "model", "state")

SUPERVISOR_REGISTRY = CollectorRegistry()
"""Of the process that starts Triton, whose values are in its memory."""
MODEL_RELOADS = _counter(
    "reverie_model_reloads",
    "How often a process of a model has ended and the supervisor has loaded it again.",
    "model",
    registry=SUPERVISOR_REGISTRY,
)
RESTARTS = _counter(
    "reverie_restarts",
    "Starts of a part of the server that had ended or stood still: triton, door, gateway.",
    "part",
    registry=SUPERVISOR_REGISTRY,
)
DOOR_REQUESTS = _sampled(
    "reverie_door_requests",
    "gRPC calls at the door by the status that their callers got, also those that no model has seen; from 0 when Envoy is "
    "started again.",
    "status",
)


def table() -> str:
    """Return all metrics as the table of the documentation, in Markdown."""
    rows = (
        f"| `{d.name}` | {d.kind} | {', '.join(f'`{label}`' for label in d.labels)} | {d.meaning} |"
        for d in DEFINITIONS
    )
    return "\n".join(("| metric | kind | labels | meaning |", "|---|---|---|---|", *rows)) + "\n"
