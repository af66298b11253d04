"""Where a process's time goes: seconds by what it was at, and its memory at the most. Costs nothing while nobody asks.

1. `Clock` counts. Inside `recording(clock)` it is the one that `span`, `count` and `beside` of this thread tell.
2. `span(name)`: the time inside it is that name's alone; the span around it stands still meanwhile, so that names add up.
3. `beside(name, call)`: the time of a call in another thread, apart from the rest, for it passes while this thread works.
4. `Clock.take` hands over what was counted since it was last asked; that travels with a part's report.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

OTHER = "other"
"""Time inside a recording and outside of every span."""
_STATUS = Path("/proc/self/status")
_NOTHING = nullcontext()
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a process has done for a while; pickles."""

    process: str
    """Host and number."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By name; they do not overlap."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Of other threads meanwhile, by name."""
    counts: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    """The most memory it ever held."""
    gpu_bytes: int = 0
    """The most that torch ever held of the memory of its GPUs."""


class Clock:
    """Counts the seconds of one thread by name; it stands still outside of `span`."""

    def __init__(self, began: float | None = None) -> None:
        """A clock at rest.

        Args:
            began: `time.monotonic()` from when on all time is counted, as that of `OTHER` unless a span has it. None: only
                the time inside spans is counted.
        """
        self._name = None if began is None else OTHER
        self._since = time.monotonic() if began is None else began
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._beside: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self.settle: Callable[[], object] | None = None
        """Called where a span begins or ends: waits for work that goes on by itself, such as a GPU's."""

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time inside it is counted as that of `name`; a span inside it takes its own."""
        outer = self._turn(name)
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, name: str | None) -> str | None:
        if self.settle is not None:
            self.settle()
        was, now = self._name, time.monotonic()
        if was is not None:
            self._seconds[was] += now - self._since
        self._name, self._since = name, now
        return was

    def charge(self, name: str, seconds: float) -> None:
        """Add time that passed before the clock was there."""
        self._seconds[name] += seconds

    def count(self, name: str, number: float) -> None:
        """Add to a number of things."""
        self._counts[name] += number

    def meanwhile(self, name: str, seconds: float) -> None:
        """Time that another thread has spent; any thread may tell."""
        with self._lock:
            self._beside[name] += seconds

    def take(self) -> Spent:
        """What was counted since it was last taken."""
        self._turn(self._name)
        with self._lock:
            beside, self._beside = self._beside, defaultdict(float)
        seconds, self._seconds = self._seconds, defaultdict(float)
        counts, self._counts = self._counts, defaultdict(float)
        return Spent(
            process=f"{socket.gethostname()}:{os.getpid()}", seconds=dict(seconds), beside=dict(beside), counts=dict(counts),
            memory_bytes=peak_memory(), gpu_bytes=peak_gpu_memory(),
        )  # fmt: skip


_CURRENT: ContextVar[Clock | None] = ContextVar("seggeo_clock", default=None)


@contextmanager
def recording(clock: Clock | None) -> Iterator[None]:
    """Let a clock count what this thread does inside it; None: nothing is counted."""
    if clock is None:
        yield
        return
    token = _CURRENT.set(clock)
    try:
        with clock.span(OTHER):
            yield
    finally:
        _CURRENT.reset(token)


def span(name: str) -> AbstractContextManager[None]:
    """Count the time inside it as that of `name`, if a clock is recording in this thread."""
    clock = _CURRENT.get()
    return _NOTHING if clock is None else clock.span(name)


def count(name: str, number: float) -> None:
    """Count some things, if a clock is recording in this thread."""
    clock = _CURRENT.get()
    if clock is not None:
        clock.count(name, number)


def beside(name: str, call: Callable[_P, _R]) -> Callable[_P, _R]:
    """A call for another thread, whose time is counted apart if a clock is recording in this one; else the call itself."""
    clock = _CURRENT.get()
    if clock is None:
        return call

    def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        began = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            clock.meanwhile(name, time.monotonic() - began)

    return timed


def peak_memory() -> int:
    """The most memory that this process has held since it began, bytes; 0 where the system does not tell."""
    try:  # what getrusage tells of a new process is at least what its parent held
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return 1024 * int(found[1])
    try:
        import resource
    except ImportError:
        return 0
    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_gpu_memory() -> int:
    """The most memory of its GPUs that this process's torch has held, bytes; 0 without torch or CUDA."""
    torch = sys.modules.get("torch")  # who has not imported it holds nothing
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(sum(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count())))
