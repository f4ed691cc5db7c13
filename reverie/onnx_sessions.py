"""ONNX Runtime sessions: the one place that sets their options. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

if TYPE_CHECKING:
    import onnx

CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3
"""ONNX Runtime's log severity: 2 is warnings, 3 errors."""


def open_session(
    model: Path | bytes | onnx.ModelProto,
    providers: Sequence[Any] = (CPU,),
    *,
    threads: int = 0,
    has_many_shapes: bool = False,
    shares_machine: bool = False,
    is_quiet: bool = False,
    disabled_optimizers: Sequence[str] = (),
    entries: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        model: a file, a serialized graph, or a graph in memory.
        providers: in the order in which ONNX Runtime asks them for an operator, alone or with a dictionary of options.
        threads: for one operator; 0 for one a core.
        has_many_shapes: make no memory pattern for each shape of the inputs; a pattern takes as much memory as a half to a
            whole run, and saves no time where shapes change.
        shares_machine: let threads that wait sleep; those that spin take the processor from other models of a small machine.
        is_quiet: log errors only.
        disabled_optimizers: names of graph rewritings to leave out.
        entries: further settings by their names in ONNX Runtime, such as "session.x64quantprecision".

    Returns:
        The session.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = not has_many_shapes
    if shares_machine:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    if is_quiet:
        options.log_severity_level = _ERRORS_ONLY
    return ort.InferenceSession(
        _source(model), options, providers=list(providers), disabled_optimizers=list(disabled_optimizers)
    )


def _source(model: Path | bytes | onnx.ModelProto) -> str | bytes:
    if isinstance(model, Path):
        return str(model)
    return model if isinstance(model, bytes) else model.SerializeToString()
