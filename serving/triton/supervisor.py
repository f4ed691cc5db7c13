"""Keep a server serving: start Triton again when it ended, and a model whose process has died or stands still.

Triton 2.51 neither restarts a Python model whose process was killed nor stops calling it ready: its requests
fail until the model is unloaded and loaded. Each time it keeps a zombie, a region of shared memory and some 35 threads
of what died, so after several it is started again as a whole. A model that could not be loaded again is owed: it is
tried until it is back, as long as the repository lists it. Looks at processes and at Triton's list of models, and
never at requests.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from serving.telemetry.definitions import MODEL_RELOADS, RESTARTS
from serving.triton import processes
from serving.triton.errors import ServerError, StartInterrupted
from serving.triton.hung_processes import HungProcesses
from serving.triton.server import TritonServer

_LOOK_EVERY_S = 0.5
_LIST_EVERY_S = 2.0
"""Between two looks at Triton's list of models, which says what failed to load."""
_LOAD_TIMEOUT_S = 120.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_MOST_RELOADS = 16
"""Then Triton is started again, for what it keeps of dead processes."""
_TRIES_BEFORE_RESTART = 3
"""Of a model that does not load. Triton is started again once for it: what that does not mend, another start does not."""
_STUB = "triton_python_backend_stub"
_UNLOADED = "unloaded"
"""What Triton says of a version that somebody took out of service, and not that it failed."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model as Triton names it."""

    name: str
    version: str


@dataclass(frozen=True)
class Owed:
    """A model that should be served and is not.

    Attributes:
        tries: loads that failed.
        next_at: when to try again, by `time.monotonic`.
    """

    tries: int
    next_at: float

    @classmethod
    def after(cls, tries: int) -> Owed:
        """Plan the next load after so many failed ones: in twice the time, up to `_LONGEST_PAUSE_S`."""
        return cls(tries, time.monotonic() + pause_after(tries))


def pause_after(failures: int) -> float:
    """Return the seconds to wait after the `failures`-th failure in a row."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE_S)


def supervise(server: TritonServer, stop: threading.Event, say: Say, on_watching: Callable[[], None]) -> None:
    """Watch a started `server` until `stop` is set, and start again what ends.

    Args:
        say: told in a sentence what ended and what is done.
        on_watching: called once, when whatever ends from then on is noticed.
    """
    supervisor = Supervisor(server, stop, say)
    supervisor.begin()
    on_watching()
    while not stop.wait(_LOOK_EVERY_S):
        supervisor.look()


@dataclass
class Supervisor:
    """What is known of one server between two looks.

    Attributes:
        healthy: how many processes each version has when none is missing.
        ready: versions that were, in Triton's last list.
        served: versions that have been ready, and that the repository lists.
        owed: models that should be served and are not.
        failures: starts of Triton that failed, in a row.
        reloads: of models, since Triton was started.
    """

    server: TritonServer
    stop: threading.Event
    on_event: Say
    healthy: dict[ModelVersion, int] = field(default_factory=dict)
    ready: set[ModelVersion] = field(default_factory=set)
    served: set[ModelVersion] = field(default_factory=set)
    owed: dict[str, Owed] = field(default_factory=dict)
    hung: HungProcesses = field(default_factory=HungProcesses)
    failures: int = 0
    reloads: int = 0
    _listed_at: float = -math.inf
    _trouble: str = ""

    def begin(self) -> None:
        """Take what runs now for all that should run."""
        assert self.server.pid is not None
        self.healthy = _processes_when_healthy(self.server, set(model_processes(self.server.pid)), {})
        with contextlib.suppress(OSError):
            self._compare_with_list()
        RESTARTS.labels("triton")  # At 0 before anything ends: of what appears at 1, Prometheus sees no increase.
        for version in self.served | self.healthy.keys():
            MODEL_RELOADS.labels(version.name)

    def look(self) -> None:
        """Look once at what has ended, and start it again; say what cannot be done now, and try it at the next look."""
        try:
            self._look()
            self._trouble = ""
        except (OSError, ServerError, subprocess.SubprocessError) as error:
            if str(error) != self._trouble:  # Once, and not twice a second.
                self._say(f"cannot look after Triton now: {error}; trying again")
            self._trouble = str(error)

    def _look(self) -> None:
        if self.server.poll() is not None or self.server.pid is None:  # it ended, or could not be started again
            self._start_ended_triton()
        elif self.reloads >= _MOST_RELOADS:
            self._restart(f"{self.reloads} processes of models have ended; starting Triton again to free what it keeps")
        else:
            self.hung.end(self.server.pid, self._say)
            self._list_now_and_then()
            self._reload_ended()
            self._retry_owed()

    def _start_ended_triton(self) -> None:
        status, pause = self.server.poll(), pause_after(self.failures + 1)
        if status is not None:
            self._say(f"Triton ended by itself with status {status}; starting it again in {pause:.0f} s")
        if not self.stop.wait(pause):
            self._restart()

    def _restart(self, why: str = "") -> None:
        """Start Triton again, with all models that load; the others are owed."""
        if why:
            self._say(why)
        RESTARTS.labels("triton").inc()
        self.healthy.clear()
        self.ready.clear()
        self.reloads, self._listed_at = 0, -math.inf
        self.failures = 0 if _restart(self.server, self._say) else self.failures + 1

    def _reload_ended(self) -> None:
        """Load the models again of which a process has ended, also one that ended before it was ever seen."""
        assert self.server.pid is not None
        running = Counter(model_processes(self.server.pid))
        known = running.keys() | self.ready | self.healthy.keys()
        self.healthy = _processes_when_healthy(self.server, known, self.healthy)
        incomplete = {version for version, count in self.healthy.items() if running[version] < count}
        lost = {version.name for version in incomplete if _is_ready(self.server, version)}
        for model in sorted(lost):
            self._say(f"a process of model {model} ended; loading it again")
            MODEL_RELOADS.labels(model).inc()
            self._load(model, {version.version for version in incomplete if version.name == model})
        self.reloads += len(lost)
        self.healthy = {v: n for v, n in self.healthy.items() if v not in incomplete and v.name not in lost}

    def _retry_owed(self) -> None:
        """Try the models again whose time has come; start Triton again where a few tries have not helped."""
        now = time.monotonic()
        for model in sorted(name for name, owed in self.owed.items() if owed.next_at <= now):
            if self.owed[model].tries == _TRIES_BEFORE_RESTART:
                self.owed[model] = Owed.after(_TRIES_BEFORE_RESTART + 1)
                self._restart(f"model {model} could not be loaded {_TRIES_BEFORE_RESTART} times; starting Triton again")
                return
            self._load(model)

    def _load(self, model: str, ended: Set[str] = frozenset()) -> None:
        """Load a model again; `ended` are its versions of which a process has."""
        tries = self.owed[model].tries if model in self.owed else 0
        self._listed_at = -math.inf
        self.ready = {version for version in self.ready if version.name != model}  # Until it is listed again.
        failure = _reload(self.server, model, ended)
        if failure:
            self.owed[model] = Owed.after(tries + 1)
            self._say(f"model {model} could not be loaded: {failure}; trying again in {pause_after(tries + 1):.0f} s")
        elif model in self.owed:
            self._is_served_again(model)

    def _list_now_and_then(self) -> None:
        """A list that does not come is asked for later; processes are looked at all the same."""
        if self._listed_at + _LIST_EVERY_S <= time.monotonic():
            with contextlib.suppress(OSError):
                self._compare_with_list()

    def _compare_with_list(self) -> None:
        """Find out from Triton's list of models which have become ready, and which failed to load.

        What the repository no longer lists is not owed: a version that was withdrawn, a model that was removed.
        """
        self._listed_at = time.monotonic()
        states = _states(self.server)
        self.ready = {version for version, state in states.items() if state.is_ready}
        self.served = {v for v in self.served | self.ready if is_listed(self.server.repository, v)}
        self.owed = {m: owed for m, owed in self.owed.items() if (self.server.repository / m).is_dir()}
        failed = {v.name for v in self.served if v in states and states[v].has_failed}
        for model in sorted(failed - self.owed.keys()):
            self._say(f"model {model} should be served and failed to load; trying again")
            self.owed[model] = Owed.after(1)
        for model in [name for name in self.owed if self._is_healthy(name)]:
            self._is_served_again(model)

    def _is_healthy(self, model: str) -> bool:
        wanted = {version for version in self.served if version.name == model}
        return bool(wanted) and wanted <= self.ready

    def _is_served_again(self, model: str) -> None:
        del self.owed[model]
        self._say(f"model {model} is served again")

    def _say(self, line: str) -> None:
        """Nobody may be listening any more, and a disk may be full; that ends nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.on_event(line)


def is_listed(repository: Path, version: ModelVersion) -> bool:
    """Say whether the repository lists a version: it is there, and its model's configuration names it."""
    folder = repository / version.name
    if not (folder / version.version).is_dir():
        return False
    try:
        configuration = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    except (OSError, ValueError, text_format.ParseError):
        return True  # It cannot be read now; until it says otherwise, what was served should be.
    policy = configuration.version_policy
    return not policy.HasField("specific") or int(version.version) in policy.specific.versions


@dataclass(frozen=True)
class State:
    """What Triton's list of models says of a version: "READY", "UNAVAILABLE", ..., and why."""

    state: str = ""
    reason: str = ""

    @property
    def is_ready(self) -> bool:
        return self.state == "READY"

    @property
    def has_failed(self) -> bool:
        return self.state == "UNAVAILABLE" and self.reason != _UNLOADED


def _states(server: TritonServer) -> dict[ModelVersion, State]:
    index: Any = server.control("repository/index", 5, {})
    return {
        ModelVersion(model["name"], model.get("version", "")): State(model.get("state", ""), model.get("reason", ""))
        for model in index
    }


def model_processes(triton: int) -> Iterator[ModelVersion]:
    """Yield the version of every running process of Triton's Python backend that is a child of process `triton`."""
    yield from filter(None, map(model_version, processes.children(triton)))


def model_version(process: processes.Process) -> ModelVersion | None:
    """Return the version that a process of Triton's Python backend runs; None for any other process."""
    if not (process.arguments and Path(process.arguments[0]).name == _STUB):
        return None
    *_, name, version, _file = Path(process.arguments[1]).parts
    return ModelVersion(name, version)


def _restart(server: TritonServer, say: Say) -> bool:
    started = time.monotonic()
    try:
        server.stop()
        server.start(needs_every_model=False)
    except StartInterrupted:
        return False
    except (OSError, ServerError, subprocess.SubprocessError) as error:
        say(f"Triton could not be started: {error}")
        return False
    say(f"Triton is ready again after {time.monotonic() - started:.1f} s")
    return True


def _processes_when_healthy(
    server: TritonServer, models: Set[ModelVersion], known: dict[ModelVersion, int]
) -> dict[ModelVersion, int]:
    """How many processes each of `models` has when none is missing; asks Triton for those that are not `known`."""
    return {model: known.get(model) or _instances(server, model) for model in models}


def _instances(server: TritonServer, model: ModelVersion) -> int:
    """Processes that a version has once it is loaded; 0 while Triton does not say."""
    try:
        groups = server.control(f"models/{model.name}/versions/{model.version}/config", 5)["instance_group"]
    except (OSError, KeyError):
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


def _reload(server: TritonServer, model: str, ended: Set[str]) -> str:
    """Load a model again, and go on serving those of its versions that are whole.

    Loading alone does nothing where no file is newer, but for another configuration: first one of the versions that are whole,
    which takes the others out, then the model's own. Where none is whole, nobody is served while it is unloaded and loaded.

    Args:
        ended: versions that Triton calls ready though a process of theirs has ended.

    Returns:
        Why it failed; empty where it did not.
    """
    try:
        server.restore_folder()
        if whole := _whole_versions(server, model, ended):
            configuration = server.control(f"models/{model}/config", 5)
            _load_configuration(server, model, configuration | {"version_policy": {"specific": {"versions": whole}}})
            _load_configuration(server, model, configuration)
        else:
            server.control(f"repository/models/{model}/unload", 30, {})
            server.control(f"repository/models/{model}/load", _LOAD_TIMEOUT_S, {})
    except urllib.error.HTTPError as error:
        return _said(error)
    except OSError as error:
        return str(error)
    return ""


def _whole_versions(server: TritonServer, model: str, ended: Set[str]) -> list[int]:
    """Those that serve; none where Triton does not say."""
    try:
        states = _states(server)
    except OSError:
        return []
    ready = {v.version for v, state in states.items() if v.name == model and state.is_ready}
    return sorted(int(version) for version in ready - ended)


def _load_configuration(server: TritonServer, model: str, configuration: dict[str, Any]) -> None:
    parameters = {"parameters": {"config": json.dumps(configuration)}}
    server.control(f"repository/models/{model}/load", _LOAD_TIMEOUT_S, parameters)


def _said(error: urllib.error.HTTPError) -> str:
    """What Triton answered, without the trace of a model's code that follows its first line."""
    body = error.read().decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = str(json.loads(body)["error"])
    return next(iter(body.splitlines()), str(error))
