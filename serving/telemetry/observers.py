"""Who is told of each request of a process: the access log and the tracer, where the environment asks for them."""

from __future__ import annotations

import logging
import os
from functools import cache

from serving.telemetry import logs, tracing
from serving.telemetry.access_log import AccessLog
from serving.telemetry.model_metrics import Observer

log = logging.getLogger("reverie")


@cache
def from_environment() -> tuple[Observer, ...]:
    """Return those of this process; one that is not asked for costs nothing."""
    tracer = _tracer()
    # The tracer first: it says which span the line of the log belongs to.
    return (*((tracer,) if tracer else ()), *((AccessLog(),) if os.environ.get(logs.ACCESS_VARIABLE) == "1" else ()))


def _tracer() -> tracing.Tracer | None:
    if not tracing.is_wanted():
        return None
    try:
        return tracing.Tracer()
    except ImportError as missing:
        log.warning("no traces are sent: %s; accepted: the packages of the extra 'otel' (reverie[otel])", missing)
        return None


def close() -> None:
    """Send what is left, before the process ends."""
    for observer in from_environment():
        if isinstance(observer, tracing.Tracer):
            observer.close()
