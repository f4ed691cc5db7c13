"""Start and stop the embedded Triton: the real `tritonserver` that the wheel `nvidia-pytriton` carries.

It has only the Python backend; `backends/onnxruntime` beside this file stands in for the C++ one. Knows
nothing about the models it serves.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import io
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from reverie_client import headers, hosts
from reverie_client.control_keys import ControlKeyFile
from reverie_client.credentials import SECRET_VARIABLES, SecurityError

from serving.security import Security
from serving.telemetry import logs
from serving.telemetry.definitions import FOLDER_VARIABLE
from serving.telemetry.exporter import PATH as METRICS_PATH
from serving.telemetry.exporter import Exporter
from serving.triton import arguments, installation, memory
from serving.triton.address import ListenAddress
from serving.triton.errors import ServerError, StartInterrupted, TritonCrashed
from serving.triton.folder import ServerFolder
from synthesis import gpu

PROJECT = Path(__file__).resolve().parents[2]
FORWARDED = "|".join((headers.CLIENT, headers.TIMEOUT, headers.REQUEST_ID, headers.TRACE_PARENT))
"""Headers that models are told, as a regular expression."""
_PR_SET_PDEATHSIG = 1
_MOST_STARTS = 3
"""Triton 2.51 aborts now and then while it starts on a busy machine; the next start succeeds."""
_PATIENCE_S = 0.5
"""For ports in use."""


@dataclass
class TritonServer:
    """One Triton process on one model repository; use as a context manager.

    Attributes:
        repository: the models; all of them are loaded.
        address: where to listen.
        security: what it asks of its callers.
        environment: added to the server's environment (`REVERIE_WEIGHTS_DIR`, ...).
        log: where the server's output goes; None for this process's stderr.
        stop_seconds: how long running requests may take to end when the server is stopped.
        memory_bytes: what Triton itself, without its models, may take more than it has when it is ready.
        interrupt: once it is set, a start that is under way ends at once.

    Raises (on `start`):
        StartInterrupted: `interrupt` was set.
        ServerError: something is missing, a model did not load, the process ended, or there is no safe place for the
            control key that publishers must find.
        SecurityError: other machines would be let in without keys.
    """

    repository: Path
    address: ListenAddress = field(default_factory=ListenAddress.free)
    environment: Mapping[str, str] = field(default_factory=dict)
    security: Security = field(default_factory=Security)
    log: Path | None = None
    stop_seconds: int = 10
    memory_bytes: int = field(default_factory=memory.default_limit)
    interrupt: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)
    _folder: ServerFolder | None = field(default=None, init=False, repr=False)
    _exporter: Exporter | None = field(default=None, init=False, repr=False)
    _triton_metrics_port: int = field(default=0, init=False, repr=False)
    _counts: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    """What the processes of earlier starts have counted, for the metrics."""
    _key_file: ControlKeyFile | None = field(default=None, init=False, repr=False)
    _id: str = field(default_factory=lambda: f"reverie-{secrets.token_hex(8)}", init=False, repr=False)
    """Triton's name for itself, which tells it from all others."""

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, timeout: float = 120.0, needs_every_model: bool = True) -> None:
        """Launch and wait until every model is loaded.

        Args:
            needs_every_model: a model that does not load ends the start; else it is left out, and health says so.
        """
        self.security.check_host(self.address.host)
        if not self.repository.is_dir():
            raise ServerError(f"no model repository at {self.repository}; give its folder with --repository")
        for _ in range(_MOST_STARTS - 1):
            with contextlib.suppress(TritonCrashed):
                self._start_once(timeout, needs_every_model)
                return
        self._start_once(timeout, needs_every_model)

    def _start_once(self, timeout: float, needs_every_model: bool) -> None:
        wheel = installation.wheel()
        libraries = installation.libraries(wheel)
        self.address.check_free(self._http_host, _PATIENCE_S)
        output: IO[bytes] | None = None
        try:
            self._folder = ServerFolder.create(wheel)
            self._start_exporter(self._folder.metrics)
            output = self.log.open("ab") if self.log else None
            self._process = subprocess.Popen(
                [*self._command(wheel, self._folder), f"--exit-on-error={str(needs_every_model).lower()}"],
                env=self._environment(libraries, self._folder),
                stdin=subprocess.DEVNULL,
                stdout=output or sys.stderr,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            self._wait_until_ready(timeout)
            self._limit_memory()
            self._leave_control_key()
        except BaseException as error:
            self._kill()  # It serves nobody yet, and hears no signal while it loads models.
            if isinstance(error, (OSError, subprocess.SubprocessError)):
                raise ServerError(f"Triton could not be started: {error}") from error
            raise
        finally:
            if output:
                output.close()

    def stop(self) -> None:
        """End the server by a signal, then by force; leave no process and no shared memory behind."""
        self._take_control_key_back()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_seconds + 10)
        self._kill()

    def _take_control_key_back(self) -> None:
        key_file, self._key_file = self._key_file, None
        if key_file:
            key_file.remove()

    def _kill(self) -> None:
        self._take_control_key_back()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._stop_exporter()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def _start_exporter(self, folder: Path) -> None:
        """Serve the metrics at the server's address; Triton's own go to a port that only this process is told."""
        folder.mkdir()
        self._triton_metrics_port = ListenAddress.free().metrics_port
        triton = f"http://127.0.0.1:{self._triton_metrics_port}{METRICS_PATH}"
        self._exporter = Exporter(self.address.metrics_host, self.address.metrics_port, triton, folder)
        self._exporter.values.put_counts(self._counts)
        self._exporter.start()

    def _stop_exporter(self) -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.stop()
            self._counts = exporter.values.take_counts()

    def shared_memory(self) -> list[Path]:
        """Return the regions of shared memory that this server has now; none unless it runs."""
        return self._folder.shared_memory() if self._folder else []

    def restore_folder(self) -> None:
        """Put back what somebody removed of the folder that Triton loads its models' processes from.

        Raises:
            OSError: it cannot be written.
        """
        if self._folder is not None:
            self._folder.restore()

    def control(self, path: str, timeout: float, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the Triton that was started here over HTTP, on this machine and with every key.

        It says its name first, on the same connection, so that no other server at this port is asked for anything.

        Args:
            path: below `/v2/`.
            data: of a POST; None for a GET.

        Returns:
            The JSON of the answer; empty where there is none.

        Raises:
            TimeoutError: no answer in `timeout` seconds.
            OSError: no connection, another server, a Triton that has ended, `interrupt` was set, or a status that is no
                success (`urllib.error.HTTPError`).
        """
        connection = http.client.HTTPConnection(self._control_host, self.address.http_port, timeout=timeout)
        try:
            if self._exchange(connection, "").get("name") != self._id:
                raise OSError(f"another server answers at {self.http}")
            return self._exchange(connection, f"/{path}", data)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"no answer that could be read: {error!r}") from None
        finally:
            connection.close()

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request and its answer; the connection stays with the process that took it, or breaks."""
        body = None if data is None else json.dumps(data)
        connection.request("GET" if data is None else "POST", f"/v2{path}", body, self.security.headers())
        connection.auto_open = 0
        self._await_answer(connection)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise urllib.error.HTTPError(path, answer.status, answer.reason, answer.headers, io.BytesIO(content))
        return json.loads(content or b"{}")

    def _await_answer(self, connection: http.client.HTTPConnection) -> None:
        """Wait for an answer, but not for that of a process that has ended: a child of it may hold the connection open."""
        assert connection.timeout is not None
        end = time.monotonic() + connection.timeout
        while not select.select([connection.sock], [], [], 0.1)[0]:
            if self.poll() is not None:
                raise OSError("Triton has ended")
            if self.interrupt.is_set():
                raise OSError("interrupted while Triton was asked")
            if time.monotonic() >= end:
                raise TimeoutError("timed out")

    @property
    def http(self) -> str:
        """Where HTTP answers health, and the models if `security.http`."""
        return f"http://{hosts.join(self._http_host, self.address.http_port)}"

    @property
    def _control_host(self) -> str:
        """Where this process reaches HTTP."""
        return "127.0.0.1" if hosts.is_wildcard(self._http_host) else self._http_host.strip("[]")

    @property
    def _http_host(self) -> str:
        """Other machines get HTTP only where it is to be open, and never beside TLS, which it has none of."""
        if hosts.is_loopback(self.address.host) or (self.security.http and not self.security.tls):
            return self.address.host
        return "127.0.0.1"

    def poll(self) -> int | None:
        """Return the exit status if the process has ended by itself, else None."""
        return self._process.poll() if self._process else None

    def _command(self, wheel: Path, folder: ServerFolder) -> list[str]:
        address = self.address
        return [
            str(wheel / "bin" / "tritonserver"),
            f"--id={self._id}",
            f"--model-repository={self._plain_repository(folder)}",
            f"--backend-directory={folder.backends}",
            f"--cache-directory={wheel / 'caches'}",
            "--model-control-mode=explicit",
            "--load-model=*",
            # Not ready while a version that should be served is not; `registry.rollout` sees to it that one that
            # failed to load and was withdrawn does not count.
            "--strict-readiness=true",
            # Configurations are complete; completing them would start (and import) every Python model twice.
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={folder.shared_memory_prefix}",
            f"--grpc-address={hosts.bracketed(address.host)}",
            f"--http-address={_for_libevent(self._http_host)}",
            "--metrics-address=127.0.0.1",
            *self.security.arguments(),
            # Who calls, for the limits of one client and for logs; see `serving.python_backend.request.Caller`.
            *(f"--{protocol}-header-forward-pattern={FORWARDED}" for protocol in ("grpc", "http")),
            f"--grpc-port={address.grpc_port}",
            f"--http-port={address.http_port}",
            f"--metrics-port={self._triton_metrics_port}",
            "--metrics-config=summary_latencies=true",
            f"--exit-timeout-secs={self.stop_seconds}",
            *logs.triton_options({**os.environ, **self.environment}),
            *([] if gpu.has_gpu() else ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]),
        ]

    def _plain_repository(self, folder: ServerFolder) -> Path:
        found = self.repository.resolve()
        is_local = Path(found).is_absolute()  # Triton itself also reads buckets.
        return folder.plain(found, "repository") if is_local else found

    def _environment(self, libraries: list[Path], folder: ServerFolder) -> dict[str, str]:
        """Of Triton, and so of its models: without our keys, which are none of theirs."""
        python = folder.plain(Path(sys.executable).parent.parent, "python")
        return {
            "TF_CPP_MIN_LOG_LEVEL": gpu.log_level(),
            **{name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES},
            **self.environment,
            FOLDER_VARIABLE: str(folder.metrics),
            "LD_LIBRARY_PATH": ":".join(str(folder.plain(path, f"lib{i}")) for i, path in enumerate(libraries)),
            "PATH": f"{python / 'bin'}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{folder.plain(PROJECT, 'project')}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        }

    def _wait_until_ready(self, timeout: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        is_hidden = False
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                where = f"see {self.log}" if self.log else "see its output above"
                failure = TritonCrashed if self._process.returncode < 0 else ServerError
                raise failure(f"Triton ended with status {self._process.returncode} while starting; {where}")
            # Once a backend has shared memory, the options have been read; see `arguments.hide`.
            if not is_hidden and self.shared_memory():
                is_hidden = self._hide_keys()
            with contextlib.suppress(OSError):
                self.control("health/live", timeout=1.0)  # Triton answers once it has tried to load every model.
                if not is_hidden:
                    self._hide_keys()
                return
            if self.interrupt.wait(0.1 if is_hidden else 0.005):
                raise StartInterrupted("interrupted while models were loaded")
        raise ServerError(f"Triton was not ready after {timeout:.0f} s")

    def _hide_keys(self) -> bool:
        assert self._process is not None
        with contextlib.suppress(OSError):  # Where that is forbidden the keys stay visible, as SECURITY.md says.
            arguments.hide(self._process.pid, self.security.secrets())
        return True

    def _limit_memory(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # It has just ended: `poll` tells.
            memory.limit(self._process.pid, self.memory_bytes)

    def _leave_control_key(self) -> None:
        """Only now: the port is this server's, so the key of another one on it is not overwritten."""
        if key := self.security.made_up_control_key:
            try:
                self._key_file = ControlKeyFile.write(self.address.host, self.address.grpc_port, key)
            except SecurityError as error:  # When Triton is started again, one to try again after.
                raise ServerError(str(error)) from None


def _for_libevent(host: str) -> str:
    """A host as Triton's HTTP servers take it."""
    return f"ipv6:{host.strip('[]')}" if ":" in host else host


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
