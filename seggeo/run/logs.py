"""Everything said on standard error as JSON, a line each: log records, warnings, progress, what a model prints.

Standard error itself is replaced: what is written there as text becomes the message of a record, line by line, so that
nobody who prints has to know. Worker processes do as their parent, which leaves word in the environment.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

VARIABLE = "SEGGEO_LOG_FORMAT"
"""Environment variable, and option, that says text or json."""
_LEVELS = {"warning:": "warning", "error:": "error"}


class JsonLines(io.TextIOBase):
    """A stream that makes a JSON record of each line."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest = stream, ""

    def write(self, text: str) -> int:
        """Take text; whole lines go out."""
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                self.record(_LEVELS.get(line.split(" ", 1)[0], "info"), {"message": line.strip()})
        return len(text)

    def record(self, level: str, values: Mapping[str, Any]) -> None:
        """One record: JSON values by name."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "level": level, "pid": os.getpid(), **values}
        self._stream.write(json.dumps(record, default=str) + "\n")  # in one piece: processes share the stream
        self._stream.flush()

    def flush(self) -> None:
        """Pass on what there is, half a line as it is."""
        if self._rest:
            self.write("\n")
        self._stream.flush()

    def fileno(self) -> int:
        """Of the stream below."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Nobody looks at this."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True


class _Handler(logging.Handler):
    """Log records as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        values = {"message": record.getMessage(), "logger": record.name}
        if record.exc_info:
            values["traceback"] = logging.Formatter().formatException(record.exc_info)
        tell(record.levelname.lower(), values)


def start(kind: str, level: int) -> None:
    """Set up logging, as text or as JSON, here and in the processes that this one starts."""
    _drop_garbled()
    if kind == "json":
        os.environ[VARIABLE] = kind
        _replace()
        logging.basicConfig(level=level, handlers=[_Handler()], force=True)
    else:
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def follow_parent() -> None:
    """In a new process: as the parent does it."""
    _drop_garbled()
    if os.environ.get(VARIABLE) == "json":
        _replace()
        sys.stdout = sys.stderr  # its results go elsewhere
        logging.basicConfig(level=logging.WARNING, handlers=[_Handler()], force=True)


def tell(level: str, values: Mapping[str, Any]) -> bool:
    """A record, if standard error takes them; false where it takes text."""
    if not isinstance(sys.stderr, JsonLines):
        return False
    sys.stderr.record(level, values)
    return True


def _drop_garbled() -> None:
    """Keep tracebacks of messages that rasterio cannot decode, as of a damaged file, out of standard error.

    GDAL's error itself is raised all the same; what is lost is a line of its log.
    """
    before = sys.unraisablehook

    def hook(caught: Any) -> None:
        is_garbled = isinstance(caught.exc_value, UnicodeDecodeError) and "rasterio" in str(caught.object)
        if not is_garbled:
            before(caught)

    sys.unraisablehook = hook


def _replace() -> None:
    if not isinstance(sys.stderr, JsonLines):
        sys.stderr = JsonLines(sys.stderr)
