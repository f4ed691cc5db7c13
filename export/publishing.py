"""From finished runs to published versions: the newest run, or a given one, is exported and handed to the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reverie_client.labels import STABLE

from export.onnx.precision import CPU_DEFAULT, Precision
from registry.publishing import Published, PublishError, Warn, connected, publish, reason
from registry.repository import Repository
from registry.staging import ExportResult
from reverie.progress import say
from training.runs import Run, RunError

KINDS = ("language_model", "style")


def export_runs(
    kind: str | None,
    run: Path | None,
    runs: Path,
    repository: Path,
    address: str | None = None,
    label: str = STABLE,
    precision: Precision = CPU_DEFAULT,
    is_required: bool = False,
    warn: Warn = lambda sentence: None,
) -> Iterator[Published]:
    """Export and publish one run, or the newest finished run of every kind.

    Args:
        address: of a server that should serve the result at once, if one answers there.
        is_required: a server must answer at `address`.
        precision: of a style network's `model.onnx`, in which a CPU computes.
        warn: told in a sentence, before it happens, what callers of the server will notice; not called if they notice nothing.

    Raises:
        RunError: there is no finished run to export.
        ParityError, PrecisionError: a graph departs from Keras, or a precision from float32; nothing was published.
        PublishError: the version did not get into service; it is gone and the old one serves. Or the server did not
            answer (see `connected`), which is found before anything is converted.
    """
    from registry.staging import stage

    chosen = {kind: Run(run)} if kind and run else _newest(kind, runs)
    with connected(address, is_required):  # Before minutes of work, and not silently on disk alone.
        pass
    for name, found in chosen.items():
        say(f"{name}: exporting {found.path}")  # TensorFlow, imported next, takes seconds.
        try:
            with stage(found, _exporter(name, precision), Repository(repository), name) as version:
                published = publish(version, Repository(repository), address, label, is_required=is_required, warn=warn)
        except OSError as error:
            raise PublishError(f"{name}: {reason(error)}; nothing was published") from error
        yield published


def _newest(kind: str | None, runs: Path) -> dict[str, Run]:
    found = {}
    for name in [kind] if kind else KINDS:
        try:
            found[name] = Run.newest_finished(name, runs)
        except RunError:
            continue
    if not found:
        raise RunError(
            f"no finished run of {kind or ' or '.join(KINDS)} under {runs}; train one with 'make train-lm' or 'make train-style'"
        )
    return found


def _exporter(kind: str, precision: Precision) -> Callable[[Run, Path], ExportResult]:
    """Imported here: TensorFlow takes seconds, and only an export needs it."""
    if kind == "style":
        from export.style.export import export_style

        return partial(export_style, precision=precision)
    from export.language_model.export import export_language_model

    return export_language_model
