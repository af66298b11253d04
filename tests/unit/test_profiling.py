"""Clocks: names add up to the time that passed, other threads are apart, and nothing happens while nobody asks."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from itertools import count as numbers

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seggeo import profiling
from seggeo.profiling import OTHER, Clock, beside, count, peak_memory, recording, span

NAMES = ("model", "encode", "wait")
NESTS = st.recursive(st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=4), max_leaves=12)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the time is a second after the one before."""
    seconds = numbers()
    monkeypatch.setattr(profiling.time, "monotonic", lambda: float(next(seconds)))


def test_a_span_stands_still_while_another_runs_inside_it(ticking: None):
    clock = Clock()
    with recording(clock), span("model"), span("encode"):
        pass

    assert clock.take().seconds == {OTHER: 2.0, "model": 2.0, "encode": 1.0}


@given(NESTS)
def test_names_add_up_to_the_time_that_passed(nest: list):
    def run(spans: list) -> None:
        for name, inner in spans:
            with span(name):
                run(inner)

    clock, before = Clock(), time.monotonic()
    with recording(clock):
        began = time.monotonic()
        run(nest)
        inside = time.monotonic() - began
    spent = clock.take()

    assert inside <= sum(spent.seconds.values()) <= time.monotonic() - before
    assert min(spent.seconds.values()) >= 0


def test_a_clock_that_began_counts_all_time_since(ticking: None):
    clock = Clock(began=-5.0)
    with clock.span("merge"):
        pass

    assert clock.take().seconds == {OTHER: 6.0, "merge": 1.0}
    assert clock.take().seconds == {OTHER: 1.0}


def test_time_between_recordings_is_nobodys(ticking: None):
    clock = Clock()
    for _ in range(3):
        with recording(clock):
            pass
        profiling.time.monotonic()

    assert clock.take().seconds == {OTHER: 3.0}
    assert clock.take().seconds == {}


def test_a_span_that_fails_ends_too(ticking: None):
    clock = Clock()
    with pytest.raises(ValueError, match="no"), recording(clock), span("model"), span("encode"):
        raise ValueError("no")
    with recording(clock):
        pass

    assert clock.take().seconds == {OTHER: 3.0, "model": 2.0, "encode": 1.0}


def test_without_a_recording_nothing_is_done():
    def call() -> None:
        return None

    assert span("model") is span("encode")
    assert beside("read", call) is call
    count("tiles", 1)
    with recording(None), span("model"):
        assert span("encode") is span("model")


def test_another_thread_is_counted_where_it_says_so_and_apart():
    clock, answers = Clock(), []

    def work(number: int) -> int:
        with span("model"):  # not of the thread that records
            count("tiles", 1)
        return number + 1

    with recording(clock):
        timed = beside("read", work)
        lines = [threading.Thread(target=lambda i=i: answers.append(timed(i))) for i in range(4)]
        for line in lines:
            line.start()
        for line in lines:
            line.join()
    spent = clock.take()

    assert sorted(answers) == [1, 2, 3, 4]
    assert set(spent.seconds) == {OTHER}
    assert spent.beside["read"] > 0
    assert spent.counts == {}


def test_no_time_that_threads_tell_at_once_is_lost():
    clock = Clock()

    def tell() -> None:
        for _ in range(2000):
            clock.meanwhile("read", 1.0)

    lines = [threading.Thread(target=tell) for _ in range(8)]
    for line in lines:
        line.start()
    for line in lines:
        line.join()

    assert clock.take().beside == {"read": 16000.0}


def test_what_was_counted_is_taken_once_and_travels():
    clock = Clock()
    with recording(clock):
        count("tiles", 2)
        count("tiles", 1)
    clock.charge("start", 4.0)
    spent = clock.take()

    assert spent.counts == {"tiles": 3}
    assert spent.seconds["start"] == 4.0
    assert pickle.loads(pickle.dumps(spent)) == spent
    assert clock.take().counts == {}


def test_work_that_goes_on_by_itself_is_waited_for_at_each_border():
    clock, waited = Clock(), []
    clock.settle = lambda: waited.append(1)
    with recording(clock), span("model"):
        pass

    assert len(waited) == 4


def test_memory_is_this_process_own_and_never_falls():
    block = bytearray(300_000_000)
    with_block = peak_memory()
    del block
    code = "from seggeo.profiling import peak_memory; print(peak_memory())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert with_block > 300_000_000
    assert peak_memory() > 0.99 * with_block  # the system counts it in strides
    assert 1_000_000 < child < 200_000_000, "what the parent holds is not the child's"
