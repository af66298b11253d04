"""A process apart: answers, exceptions, real crashes and real silence, and what is left of them."""

from __future__ import annotations

import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from support_apart import write_into_nothing

from seggeo.apart import Apart, LostError

LONG_S = 60.0


@pytest.fixture
def apart() -> Iterator[Apart]:
    one = Apart()
    yield one
    one.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_an_answer_comes_from_another_process_that_stays(apart: Apart):
    first, second = (apart.call(os.getpid, timeout_s=LONG_S) for _ in range(2))

    assert first == second != os.getpid()
    assert apart.call(operator.mul, b"ab", 10**6, timeout_s=LONG_S) == b"ab" * 10**6


def test_an_exception_comes_as_it_is_and_costs_nothing(apart: Apart):
    before = apart.call(os.getpid, timeout_s=LONG_S)
    with pytest.raises(FileNotFoundError, match="no such"):
        apart.call(os.stat, "/no such file", timeout_s=LONG_S)
    with pytest.raises(ZeroDivisionError):
        apart.call(operator.floordiv, 1, 0, timeout_s=LONG_S)

    assert apart.call(os.getpid, timeout_s=LONG_S) == before


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [(write_into_nothing, (), "SIGSEGV"), (os.abort, (), "SIGABRT"), (os._exit, (7,), "exit code 7"),
     (signal.raise_signal, (signal.SIGKILL,), "SIGKILL")],
)  # fmt: skip
def test_a_death_is_told_and_the_next_call_is_answered(apart: Apart, function, arguments, says):
    with pytest.raises(LostError, match=says) as lost:
        apart.call(function, *arguments, timeout_s=LONG_S)

    assert not lost.value.hung
    assert apart.call(operator.add, 1, 2, timeout_s=LONG_S) == 3


def test_what_it_said_last_is_told(apart: Apart):
    with pytest.raises(LostError, match=r"exit code 1\): .*cannot be pickled|exit code 1\): .*pickle"):
        apart.call(threading.Lock, timeout_s=LONG_S)


def test_silence_ends_it_and_the_next_call_is_answered(apart: Apart):
    apart.call(os.getpid, timeout_s=LONG_S)
    began = time.monotonic()
    with pytest.raises(LostError, match=r"no answer in 0\.3 s") as lost:
        apart.call(time.sleep, 600, timeout_s=0.3)

    assert lost.value.hung
    assert time.monotonic() - began < 10
    assert apart.call(operator.add, 1, 2, timeout_s=LONG_S) == 3


def test_a_call_that_is_cut_short_does_not_answer_the_next(apart: Apart):
    class Stop(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stop

    apart.call(os.getpid, timeout_s=LONG_S)
    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Stop):
            apart.call(time.sleep, 1, timeout_s=LONG_S)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)

    assert apart.call(operator.add, 1, 2, timeout_s=LONG_S) == 3


def test_calls_from_many_threads_get_their_own_answers(apart: Apart):
    answers: dict[int, int] = {}

    def ask(n: int) -> None:
        answers[n] = apart.call(operator.mul, n, n, timeout_s=LONG_S)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {n: n * n for n in range(8)}


def test_nothing_of_the_working_directory_is_imported(tmp_path, apart: Apart, monkeypatch: pytest.MonkeyPatch):
    for name in ("json", "numpy", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path)

    assert apart.call(os.getcwd, timeout_s=LONG_S) == str(tmp_path)


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_no_process_is_left_behind(how):
    code = f"""
import os, signal, time
from seggeo.apart import Apart
apart = Apart()
print(apart.call(os.getpid, timeout_s=60), flush=True)
if {how == "is killed"}:
    import threading
    threading.Thread(target=apart.call, args=(time.sleep, 600), kwargs=dict(timeout_s=600), daemon=True).start()
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        number = int(running.stdout.readline())
        running.wait(60)
    end = time.monotonic() + 10
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        threading.Event().wait(0.02)

    assert time.monotonic() < end


def test_a_closed_one_leaves_nothing_and_opens_again():
    before = children()
    one = Apart()
    one.call(os.getpid, timeout_s=LONG_S)
    one.close()
    assert children() == before

    assert pickle.loads(one.call(pickle.dumps, (1, 2), timeout_s=LONG_S)) == (1, 2)
    one.close()
