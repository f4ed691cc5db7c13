"""Spans of requests, sent to a collector over OTLP where OpenTelemetry's own environment variables name one.

A request is a span, with `wait`, `compute` and `encode` below it. Nothing of OpenTelemetry is imported unless
OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) is set. Which traces are recorded, under which name and with which
headers they are sent, the SDK reads from its variables (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from serving.telemetry.identity import TraceParent
from serving.telemetry.model_metrics import OK, RequestMeasurement

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

log = logging.getLogger("reverie")

_SERVICE = "reverie"
_FLUSH_MILLISECONDS = 2000
"""That the end of a process may wait for a collector."""


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether OpenTelemetry's variables ask for spans."""
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return any(environment.get(name) for name in endpoints) and not is_disabled and "otlp" in exporters.split(",")


class Tracer:
    """Sends the spans of one process's requests.

    Raises:
        ImportError: the extra `otel` is not installed.
    """

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self._provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: _SERVICE}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("reverie")

    def arrived(self, request: RequestMeasurement) -> None:
        """Open the span of a request, whose place in the trace is then the request's."""
        from opentelemetry.trace import SpanKind

        clock = _Clock()
        span = self._tracer.start_span(
            request.metrics.model,
            _context(request.identity.parent),
            SpanKind.SERVER,
            start_time=clock.nanoseconds(request.arrived),
        )
        found = span.get_span_context()
        request.place = TraceParent(f"{found.trace_id:032x}", f"{found.span_id:016x}", int(found.trace_flags))
        request.span = span, clock

    def finished(self, request: RequestMeasurement, now: float) -> None:
        """Close it, with its parts below it."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        span: Span
        clock: _Clock
        span, clock = request.span
        if span.is_recording():
            span.set_attributes(_attributes(request))
            below = set_span_in_context(span)
            for name, start, end in _parts(request, now):
                part = self._tracer.start_span(name, below, start_time=clock.nanoseconds(start))
                part.end(clock.nanoseconds(end))
            if request.status != OK:
                span.set_status(Status(StatusCode.ERROR, request.status))
        span.end(clock.nanoseconds(now))

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)


def _context(parent: TraceParent | None) -> Context:
    """Of a span below `parent`, or of a new trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(parent.flags))
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _attributes(request: RequestMeasurement) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "reverie.model": request.metrics.model,
        "reverie.version": request.metrics.version,
        "reverie.status": request.status,
        "reverie.request_id": request.identity.request_id,
        "reverie.client": request.identity.client,
        "reverie.tokens": request.tokens,
        "reverie.pixels": request.pixels,
    }
    return {name: value for name, value in found.items() if value}


def _parts(request: RequestMeasurement, now: float) -> list[tuple[str, float, float]]:
    """What a request went through: name, beginning and end. `encode` is the making of its file or its last message."""
    if not request.began:
        return [("wait", request.arrived, now)]
    encoding = request.encoding or now
    parts = [("wait", request.arrived, request.began), ("compute", request.began, encoding)]
    return [*parts, ("encode", encoding, now)] if request.encoding else parts


class _Clock:
    """Turns moments of `time.perf_counter` into nanoseconds since 1970; one for all of a request, so that its spans meet."""

    def __init__(self) -> None:
        self._ahead = time.time_ns() - time.perf_counter_ns()

    def nanoseconds(self, moment: float) -> int:
        """Since 1970."""
        return self._ahead + round(moment * 1e9)
