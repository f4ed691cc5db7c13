"""Keep a server serving: start Triton again when it ended, and a model whose process has died or stands still.

Triton 2.51 neither restarts a Python model whose process was killed nor stops calling it ready: its requests
fail until the model is unloaded and loaded. Each time it keeps a zombie, a region of shared memory and some 35 threads
of what died, so after several it is started again as a whole. Looks at processes only, and never at requests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.triton import processes
from serving.triton.processes import Process
from serving.triton.server import ServerError, TritonServer

_LOOK_EVERY_S = 0.5
_LOAD_TIMEOUT_S = 120.0
_LONGEST_PAUSE_S = 30.0
_STOPPED_S = 10.0
"""How long Triton may stand still: longer than a debugger's glance or a suspended machine's waking, shorter than a caller's patience.
A model's process may not: after a second Triton takes it for dead, and that ends in an abort of Triton as often as not."""
_MOST_RELOADS = 16
"""Then Triton is started again, for what it keeps of dead processes."""
_STUB = "triton_python_backend_stub"

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model as Triton names it."""

    name: str
    version: str


def supervise(server: TritonServer, stop: threading.Event, say: Say, on_watching: Callable[[], None]) -> None:
    """Watch a started `server` until `stop` is set; whatever ended is started again.

    Args:
        say: told in a sentence what ended and what is done.
        on_watching: called once, when whatever ends from then on is noticed.
    """
    assert server.pid is not None
    failures, reloads, whole = 0, 0, _processes_when_whole(server, set(model_processes(server.pid)), {})
    stopped = Stopped()
    on_watching()
    while not stop.wait(_LOOK_EVERY_S):
        status = server.poll()
        if status is not None or server.pid is None:  # it ended, or could not be started again
            pause = min(2.0**failures, _LONGEST_PAUSE_S)
            if status is not None:
                say(f"Triton ended by itself with status {status}; starting it again in {pause:.0f} s")
            if stop.wait(pause):
                return
            whole.clear()
            failures, reloads = (0 if _restart(server, say) else failures + 1), 0
            continue
        if reloads >= _MOST_RELOADS:
            say(f"{reloads} processes of models have ended; starting Triton again to free what it keeps of them")
            whole.clear()
            failures, reloads = int(not _restart(server, say)), 0
            continue
        stopped.end(server.pid, say)
        running = Counter(model_processes(server.pid))
        lost = {known.name for known, count in whole.items() if running[known] < count and _is_ready(server, known)}
        for model in sorted(lost):
            say(f"a process of model {model} ended; loading it again")
            _reload(server, model, say)
        reloads += len(lost)
        intact = {model for model in running if model.name not in lost}
        whole = _processes_when_whole(server, intact, whole)


def model_processes(triton: int) -> Iterator[ModelVersion]:
    """The version of every living process of Triton's Python backend below process `triton`."""
    for process in _stubs(triton):
        *_, name, version, _file = Path(process.arguments[1]).parts
        yield ModelVersion(name, version)


def _stubs(triton: int) -> Iterator[Process]:
    return (p for p in processes.living() if p.parent == triton and Path(p.arguments[0]).name == _STUB)


@dataclass
class Stopped:
    """Ends processes that a signal has stopped and nobody lets go on; their callers wait for ever otherwise.

    Attributes:
        since: when each was first seen standing, by `time.monotonic`.
    """

    since: dict[int, float] = field(default_factory=dict)

    def end(self, triton: int, say: Say) -> None:
        """Look at Triton and its models' processes; kill models' that stand, and Triton after `_STOPPED_S`."""
        now = time.monotonic()
        watched = {p.pid for p in processes.living() if p.state == "T" and (p.pid == triton or p.parent == triton)}
        self.since = {pid: self.since.get(pid, now) for pid in watched}
        for pid, since in self.since.items():
            if pid != triton or now - since >= _STOPPED_S:
                say(f"process {pid} has been stopped by a signal; ending it")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _restart(server: TritonServer, say: Say) -> bool:
    server.stop()
    started = time.monotonic()
    try:
        server.start()
    except ServerError as error:
        say(f"Triton could not be started: {error}")
        return False
    say(f"Triton is ready again after {time.monotonic() - started:.1f} s")
    return True


def _processes_when_whole(
    server: TritonServer, models: set[ModelVersion], known: dict[ModelVersion, int]
) -> dict[ModelVersion, int]:
    """How many processes each of `models` has when none is missing; asks Triton for those that are not `known`."""
    return {model: known.get(model) or _instances(server, model) for model in models}


def _instances(server: TritonServer, model: ModelVersion) -> int:
    """Processes that a version has once it is loaded; 0 while Triton does not say."""
    try:
        groups = server.control(f"models/{model.name}/versions/{model.version}/config", 5)["instance_group"]
    except OSError:
        return 0
    return sum(group["count"] * max(1, len(group["gpus"])) for group in groups)


def _is_ready(server: TritonServer, model: ModelVersion) -> bool:
    """Whether Triton would send requests to this version; one that was unloaded it would not."""
    try:
        server.control(f"models/{model.name}/versions/{model.version}/ready", 5)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def _reload(server: TritonServer, model: str, say: Say) -> None:
    """Unload and load: loading alone does nothing where no file is newer."""
    try:
        server.control(f"repository/models/{model}/unload", 30, {})
        server.control(f"repository/models/{model}/load", _LOAD_TIMEOUT_S, {})
    except OSError as error:
        said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else error
        say(f"model {model} could not be loaded again: {said}")
