"""What is learnt from a dead process: which tiles to take alone, and which one to blame."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from seggeo.run.pool import _Pool, _words
from seggeo.run.watch import NO_CARE, Care

CRASH, KILL = -signal.SIGSEGV, -signal.SIGKILL


@pytest.fixture
def pool() -> Any:
    return _Pool(recipe=None, folder=Path(), todo=[])  # type: ignore[arg-type]


def test_after_a_first_death_all_tiles_in_hand_are_taken_alone(pool: Any):
    assert pool._blamed(NO_CARE, (4, 5), CRASH) == Care(alone=frozenset({4, 5}))
    assert pool._blamed(Care(alone=frozenset({1})), (4,), KILL) == Care(alone=frozenset({1, 4}))


@pytest.mark.parametrize("code", [CRASH, -signal.SIGABRT, 1, 9, 255])
def test_a_tile_that_ends_its_process_alone_is_barred(pool: Any, code: int):
    care = pool._blamed(Care(alone=frozenset({4, 5})), (4,), code)

    assert set(care.barred) == {4}
    assert _words(code) in care.barred[4]


def test_a_kill_from_outside_takes_three_times_to_blame_a_tile(pool: Any):
    care = Care(alone=frozenset({4}))
    for _ in range(2):
        assert pool._blamed(care, (4,), KILL) == care
        assert pool._blamed(care, (5,), KILL).barred == {}

    assert set(pool._blamed(care, (4,), KILL).barred) == {4}


def test_ends_of_processes_in_words():
    assert _words(-11) == "SIGSEGV"
    assert _words(3) == "exit code 3"
    assert _words(-250) == "signal 250"
