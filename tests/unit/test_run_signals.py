"""Signals in pairs, as batch systems send them, and as an impatient person does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from seggeo.errors import StoppedError
from seggeo.run.signals import Stop, asked_to_stop, patient, stopping


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def stopped(work: Callable[[], None], limit_s: float | None = None) -> str:
    """What a piece of work was stopped by; fails when it was not."""

    def run() -> None:
        with stopping(lambda: "again", limit_s):
            work()

    with pytest.raises(StoppedError) as caught:
        run()
    return caught.value.what


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_second_signal_of_a_batch_system_leaves_time_to_save(second: signal.Signals):
    saved = []

    def work() -> None:
        with patient():
            send(signal.SIGTERM, second)
            saved.append(asked_to_stop())
        send(second)
        saved.append("to the end")
        raise Stop("SIGTERM")

    assert stopped(work) == "stopped by SIGTERM"
    assert saved == ["SIGTERM", "to the end"]


def test_a_second_interrupt_does_not_wait():
    reached = []

    def work() -> None:
        with patient():
            send(signal.SIGTERM, signal.SIGUSR1)
            reached.append("before")
            send(signal.SIGINT)
            reached.append("after")

    assert stopped(work) == "stopped by SIGTERM"
    assert reached == ["before"]


def test_the_first_signal_ends_what_does_not_look():
    reached = []

    def work() -> None:
        send(signal.SIGUSR1)
        reached.append("after")

    assert stopped(work) == "stopped by SIGUSR1"
    assert not reached


def test_patience_ends_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seggeo.run.signals.GRACE_S", 0.1)

    def work() -> None:
        with patient():
            send(signal.SIGTERM)
            time.sleep(20)

    began = time.monotonic()
    assert stopped(work) == "stopped by SIGTERM"
    assert time.monotonic() - began < 10


def test_a_time_limit_is_a_signal():
    assert stopped(lambda: time.sleep(20), limit_s=0.1) == "stopped by the time limit"
