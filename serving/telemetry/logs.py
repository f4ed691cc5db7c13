"""How the processes of the service log: level and format, as their environment says. Knows nothing of what they do."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from enum import Enum
from typing import TextIO

LEVEL_VARIABLE, FORMAT_VARIABLE = "REVERIE_LOG_LEVEL", "REVERIE_LOG_FORMAT"
ACCESS_VARIABLE = "REVERIE_ACCESS_LOG"
""""1" where each request is to have a line; see `access_log`."""


class LogLevel(str, Enum):
    """The least that is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(str, Enum):
    """Of a line."""

    text = "text"
    json = "json"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        return json.dumps(fields)


class _OneWrite(logging.StreamHandler):
    """Writes a record and the end of its line at once, so that lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record) + "\n"
            self.stream.write(text)
            self.flush()
        except Exception:
            self.handleError(record)


def configure(stream: TextIO | None = None) -> None:
    """Make this process's loggers write as its environment says, by default warnings as text, to stderr.

    Raises:
        ValueError: the environment names no level or format that there is.
    """
    level = LogLevel(os.environ.get(LEVEL_VARIABLE) or LogLevel.warning)
    handler = _OneWrite(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json() else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("reverie")
    logger.handlers[:] = [handler]
    logger.setLevel(level.value.upper())
    logger.propagate = False


def is_json() -> bool:
    """Return whether this process's lines are JSON."""
    return LogFormat(os.environ.get(FORMAT_VARIABLE) or LogFormat.text) is LogFormat.json


def environment(level: LogLevel, format: LogFormat, access_log: bool = False) -> dict[str, str]:
    """Return the variables of the processes that are to log so."""
    variables = {LEVEL_VARIABLE: level.value, FORMAT_VARIABLE: format.value}
    return variables | ({ACCESS_VARIABLE: "1"} if access_log else {})


def triton_options(environment: Mapping[str, str]) -> list[str]:
    """Return Triton's options for the level of `environment`. Its verbose log is never on: it shows what callers send."""
    level = LogLevel(environment.get(LEVEL_VARIABLE) or LogLevel.warning)
    says_info, says_warnings = level in (LogLevel.debug, LogLevel.info), level is not LogLevel.error
    return [f"--log-info={str(says_info).lower()}", f"--log-warning={str(says_warnings).lower()}"]


def for_people(sentence: str) -> str:
    """Return what a server tells the person who started it, as a line of this process's format."""
    if not is_json():
        return sentence
    level = logging.WARNING if sentence.startswith("warning: ") else logging.INFO
    record = logging.LogRecord("reverie", level, "", 0, sentence.removeprefix("warning: "), None, None)
    return JsonFormatter().format(record)


def without_messages(failure: BaseException) -> str:
    """Return where a request failed, and with what kind of exception.

    What exceptions say is left out: it may quote a prompt or a key. The caller is told it, under the request's id.
    """
    lines: list[str] = []
    cause: BaseException | None = failure
    while cause is not None and len(lines) < 1000:
        lines = [*traceback.format_tb(cause.__traceback__), f"{type(cause).__qualname__}\n", *lines]
        cause = cause.__cause__ or cause.__context__
    return "".join(lines).rstrip("\n")
