"""Stopping in good order: signals and time limits become a request, honoured between two tiles or, too late for that, at once.

`stopping` turns the signals of people and batch systems into `Stop`. Inside `patient` the first one only asks: the code there
looks with `asked_to_stop` and saves what it has. `GRACE_S` seconds, or a second SIGINT, end the patience. Other second signals
mean nothing: batch systems send several, to every process and by way of a script.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from seggeo.errors import StoppedError

GRACE_S = 8.0
"""Longest wait for the tile in hand; batch systems kill 10 s or more after they warn."""
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that stop a run."""


class Stop(BaseException):
    """A request to stop; no Exception, so that a model's own `except Exception` cannot take it for a failure of its own."""


@dataclass(slots=True)
class _State:
    """What has been asked of this process."""

    asked: str | None = None
    is_patient: bool = False


@cache
def _state() -> _State:
    return _State()


def asked_to_stop() -> str | None:
    """The name of the signal, or the time limit, that asks to stop."""
    return _state().asked


def ask_to_stop(reason: str | None) -> None:
    """Ask as a signal does, in a process that is told by other means; None takes it back."""
    _state().asked = reason


@contextmanager
def stopping(command: Callable[[], str], limit_s: float | None = None) -> Iterator[None]:
    """Turn signals and a time limit into a clean stop: what is finished is on disk.

    Args:
        command: Gives the words that continue the run.
        limit_s: Seconds after which to stop as if a signal had come.

    Raises:
        StoppedError: One came; the same command goes on.
    """
    state = _state()
    state.asked, state.is_patient = None, False
    late, over, signalled = threading.Event(), threading.Event(), threading.Event()

    def stop(number: int, _: object) -> None:
        again = signalled.is_set()
        if again and number != signal.SIGINT and not over.is_set():
            return
        signalled.set()
        state.asked = state.asked or ("the time limit" if late.is_set() else signal.Signals(number).name)
        if again or not state.is_patient:
            raise Stop(state.asked)
        _later(GRACE_S, number, over, lambda: state.asked is not None and state.is_patient)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    timer = _later(limit_s, STOPPING[-1], late) if limit_s is not None else None
    try:
        yield
    except Stop as stopped:
        raise StoppedError(
            what=f"stopped by {stopped}", why="finished tiles are kept", mend=f"go on with the same command: {command()}"
        ) from None
    finally:
        if timer is not None:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        state.asked, state.is_patient = None, False


@contextmanager
def patient() -> Iterator[None]:
    """Code that looks for `asked_to_stop` by itself, and raises `Stop` when it has saved what it holds."""
    state = _state()
    state.is_patient = True
    try:
        yield
    finally:
        state.is_patient = False


def _later(
    seconds: float, number: int, mark: threading.Event, still: Callable[[], bool] = lambda: True
) -> threading.Timer:  # fmt: skip
    """Mark, and a signal to this process, after some seconds, if there is still reason."""
    process = os.getpid()

    def send() -> None:
        if still():
            mark.set()
            os.kill(process, number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
    return timer
