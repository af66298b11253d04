"""Every refusal seggeo makes, and the exit code each one ends with.

SeggeoError
├── ConfigError     2   bad command line or settings            (also ValueError)
├── GeometryError   2   boxes, grids, transforms that cannot be (also ValueError)
├── SourceError     3   input unreadable, unsupported, refused  (also OSError)
├── IncompleteError 4   finished with failed inputs or tiles    (also RuntimeError)
├── OutputError     5   output exists, not writable, not ours   (also OSError)
├── ModelError      6   model or weights refused                (also RuntimeError)
├── ResourceError   7   no GPU, no disk, no memory              (also RuntimeError)
├── StoreError      1   a run folder that is damaged            (also RuntimeError)
├── BusyError       8   another merge holds the output          (also RuntimeError)
└── StoppedError   75   stopped by a signal, progress saved     (also RuntimeError)
"""

from __future__ import annotations

from typing import ClassVar


class SeggeoError(Exception):
    """A refusal in three lines: what happened, why, and how to mend it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *, what: str, why: str, mend: str) -> None:
        super().__init__(what, why, mend)
        self.what = what
        self.why = why
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}\n  why: {self.why}\n  fix: {self.mend}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; keyword-only constructors do not pickle by themselves.
        return (_rebuild, (type(self), self.what, self.why, self.mend))


def _rebuild(kind: type[SeggeoError], what: str, why: str, mend: str) -> SeggeoError:
    return kind(what=what, why=why, mend=mend)


class ConfigError(SeggeoError, ValueError):
    """A command line, setting or configuration file that cannot be obeyed."""

    exit_code = 2


class GeometryError(SeggeoError, ValueError):
    """A window, grid or transform that cannot exist."""

    exit_code = 2


class SourceError(SeggeoError, OSError):
    """An input that cannot be read, is not supported or is refused by a safety limit."""

    exit_code = 3

    def __str__(self) -> str:  # OSError formats its arguments as errno and strerror
        return SeggeoError.__str__(self)


class IncompleteError(SeggeoError, RuntimeError):
    """The work ended but some inputs or tiles failed; they are listed beside the output."""

    exit_code = 4


class OutputError(SeggeoError, OSError):
    """An output that exists, cannot be written, or a run folder of another job."""

    exit_code = 5

    def __str__(self) -> str:
        return SeggeoError.__str__(self)


class ModelError(SeggeoError, RuntimeError):
    """A model or weights file that is refused."""

    exit_code = 6


class ResourceError(SeggeoError, RuntimeError):
    """No GPU, no disk or no memory, at the smallest batch."""

    exit_code = 7


class StoreError(SeggeoError, RuntimeError):
    """A run folder or part that is missing or damaged."""


class BusyError(SeggeoError, RuntimeError):
    """Another process is merging into the same output."""

    exit_code = 8


class StoppedError(SeggeoError, RuntimeError):
    """Stopped by a signal or a deadline; the same command continues."""

    exit_code = 75


class SeggeoWarning(UserWarning):
    """Something about the user's data that may surprise; the run goes on."""
