"""The door as a whole: Envoy and the guard, started, watched, and told of new keys and certificates while they run.

Use as a context manager: meanwhile a thread starts again what has ended, and takes over files that have changed. Knows
nothing of how Triton is started.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from reverie_client.control_keys import ControlKeyFile

from reverie.errors import ToolkitError
from serving.door import configuration
from serving.door.access import access_of
from serving.door.configuration import Access
from serving.door.envoy import Envoy, validate
from serving.door.errors import DoorError
from serving.door.folder import remove_folder
from serving.door.guard.admission import Keys
from serving.door.guard_process import GuardProcess
from serving.door.settings import DoorSettings
from serving.telemetry.definitions import DOOR_REQUESTS, RESTARTS

AccessOf = Callable[[DoorSettings, str], Access]
"""Who may call over a listener, `configuration.GRPC` or `HTTP`."""
_LISTENERS = 2
_LOOK_EVERY_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


@dataclass
class Door:
    """One door.

    Attributes:
        settings: where it listens, and what is behind it.
        keys: what opens what.
        shared_control_key: left on this machine for who publishes here; None where its user has chosen one.
        access: who may call.
        log: where the output of its processes goes; None for this process's stderr.
        say: told in a sentence what ended, and what was taken over or refused.
        interrupt: once it is set, a start that is under way ends at once, and nothing is started again.

    Raises (on `start`):
        DoorError: it does not open.
        SecurityError: there is no safe place for the control key.
    """

    settings: DoorSettings
    keys: Keys
    shared_control_key: str | None = None
    access: AccessOf = access_of
    log: Path | None = None
    say: Callable[[str], None] = lambda line: None
    interrupt: threading.Event = field(default_factory=threading.Event)
    _key_file: ControlKeyFile | None = field(default=None, init=False, repr=False)
    _seen: dict[Path, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)
    _certificates: int = field(default=0, init=False, repr=False)
    _failures: int = field(default=0, init=False, repr=False)
    _next_start: float = field(default=0.0, init=False, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _watcher: threading.Thread | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        limits, triton = self.settings.limits, f"127.0.0.1:{self.settings.triton_grpc_port}"
        self.envoy = Envoy(self.settings.folder, self.log, self.interrupt)
        self.guard = GuardProcess(
            self.settings.guard_socket,
            triton,
            vars(self.keys),
            limits.message_bytes,
            limits.requests,
            self.log,
            self.interrupt,
        )

    def __enter__(self) -> Door:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Open: the guard and Envoy start beside each other."""
        self._look_at_files()
        self._write_certificates()
        validate(self._static())
        self.guard.launch()
        self._write()
        self.envoy.start(_LISTENERS)
        self.guard.wait()
        if self.shared_control_key:
            address = self.settings.grpc
            self._key_file = ControlKeyFile.write(address.host, address.port, self.shared_control_key)
        DOOR_REQUESTS.add(self.envoy.statuses)
        self._watcher = threading.Thread(target=self._watch, name="door", daemon=True)
        self._watcher.start()

    def drain(self, seconds: float = 0.0) -> None:
        """Let nobody in any more, and wait until those who are inside are served.

        Args:
            seconds: the longest wait.
        """
        with contextlib.suppress(OSError):
            self.envoy.ask("/drain_listeners", method="POST")
            end = time.monotonic() + seconds
            while self.envoy.calls() and time.monotonic() < end:
                time.sleep(0.1)

    def stop(self) -> None:
        """Close, and leave neither process nor file behind."""
        self._closed.set()
        DOOR_REQUESTS.remove(self.envoy.statuses)
        if self._watcher:
            self._watcher.join()
        key_file, self._key_file = self._key_file, None
        if key_file:
            key_file.remove()
        self.envoy.stop()
        self.guard.stop()
        remove_folder(self.settings.folder)

    def _watch(self) -> None:
        """Whatever this thread starts ends with it, so it lives until `stop`."""
        while not self._closed.wait(_LOOK_EVERY_S):
            if not self.interrupt.is_set():
                self._look()

    def _look(self) -> None:
        """Start again what has ended, and take over files that have changed; neither failure ends the watch."""
        self._start_what_ended()
        changed = self._look_at_files()
        if changed == {self.settings.key_file}:
            self._take_over(
                self._write
            )  # All that a key file can say is known to Envoy: a revoked key does not wait for a trial.
        elif changed:
            self.reload()

    def reload(self) -> bool:
        """Take keys, certificates and routes over as they are on disk now; what cannot be, leaves the old in force."""
        return self._take_over(self._write_certificates, lambda: validate(self._static()), self._write)

    def _take_over(self, *steps: Callable[[], None]) -> bool:
        try:
            for step in steps:
                step()
        except (ToolkitError, OSError) as error:
            self._tell(f"the door keeps its old configuration: {error}")
            return False
        self._tell("the door has taken over its new configuration")
        return True

    def _tell(self, line: str) -> None:
        """Nobody may be listening any more, and a disk may be full; that ends nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.say(line)

    def _start_what_ended(self) -> None:
        ended = [part for part in (self.guard, self.envoy) if part.pid is None or part.poll() is not None]
        if not ended or time.monotonic() < self._next_start:
            return
        started = time.monotonic()
        RESTARTS.labels("door").inc(len(ended))
        try:
            if self.guard in ended:
                self._tell("the guard has ended; starting it again")
                self.guard.launch()
            if self.envoy in ended:
                self._tell("Envoy has ended; starting it again")
                self.envoy.start(_LISTENERS)
            if self.guard in ended:
                self.guard.wait()
        except (DoorError, OSError) as error:
            pause = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures, 16), _LONGEST_PAUSE_S)
            self._failures, self._next_start = self._failures + 1, time.monotonic() + pause
            self._tell(f"the door could not be opened again: {error}")
        else:
            self._failures = 0
            self._tell(f"the door is open again after {time.monotonic() - started:.1f} s")

    def _static(self) -> configuration.Dict:
        return configuration.envoy_configuration(self.settings, *self._access())

    def _access(self) -> tuple[Access, Access]:
        grpc, http = (self.access(self.settings, name) for name in (configuration.GRPC, configuration.HTTP))
        return grpc, http

    def _write(self) -> None:
        self.envoy.write(configuration.envoy_files(self.settings, *self._access()))

    def _write_certificates(self) -> None:
        """Of the present files, under new names: Envoy reads anew what has another name, whoever wrote it and how.

        Raises:
            DoorError: they do not belong together.
        """
        tls = self.settings.tls
        if tls is None:
            return
        assert tls.certificate is not None and tls.key is not None
        check_pair(tls.certificate, tls.key, tls.authority)
        self._certificates += 1
        folder = self.settings.folder / f"tls-{self._certificates}"
        folder.mkdir()
        files = {"certificate": tls.certificate, "key": tls.key, "authority": tls.authority}
        links = {name: folder / f"{name}.pem" for name, file in files.items() if file}
        for name, link in links.items():
            link.symlink_to(Path(str(files[name])).resolve())
        pair = links["certificate"], links["key"]
        self.envoy.write(configuration.certificate_files(self.settings, *pair, links.get("authority")))

    def _look_at_files(self) -> set[Path]:
        """The watched files that are others than when this was last asked."""
        tls = self.settings.tls
        watched = [self.settings.key_file, *((tls.certificate, tls.key, tls.authority) if tls else ())]
        found: dict[Path, tuple[int, ...]] = {}
        for file in filter(None, watched):
            with contextlib.suppress(OSError):
                state = file.stat()
                found[file] = (state.st_mtime_ns, state.st_ctime_ns, state.st_size)
        changed = {file for file in found.keys() | self._seen.keys() if found.get(file) != self._seen.get(file)}
        self._seen = found
        return changed


def check_pair(certificate: Path, key: Path, authority: Path | None) -> None:
    """Refuse a certificate that is half written, or another's.

    Raises:
        DoorError: certificate and key do not belong together, or one cannot be read.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: "")
        if authority:
            context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        raise DoorError(
            f"{certificate} and {key}: {error}; accepted: a certificate and its key, without a password, in PEM"
        ) from None
