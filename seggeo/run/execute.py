"""Run the parts of a job, in this process or in several, and report each as it is done.

Processes are spawned, never forked, and hold one open input and one model each. Parts that are done stay done; a
process whose parent is gone ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from seggeo.errors import ResourceError
from seggeo.protocols import Segmenter
from seggeo.run.part import Bench, Recipe, predict_part, set_up
from seggeo.store import RunStore, read_notes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """One part done."""

    part: int
    instances: int
    notes: Any
    """The part's counts and failures."""
    resumed: bool = False
    """True when an earlier run did it."""


def pending(store: RunStore, count: int) -> tuple[list[int], list[PartReport]]:
    """Parts still to run, and reports of those already done."""
    todo, done = [], []
    for part in range(count):
        path = store.part_path(part)
        try:
            notes = read_notes(path)
        except (OSError, ValueError):
            todo.append(part)
            continue
        if notes["failures"]:
            todo.append(part)  # tiles that failed get another chance
        else:
            done.append(PartReport(part=part, instances=notes["predicted"] - notes["foreign"], notes=notes, resumed=True))
    return todo, done


def run_parts(
    recipe: Recipe, folder: Path, parts: list[int], *, workers: int, segmenter: Segmenter | None = None
) -> Iterator[PartReport]:
    """Predict parts and store them; yields a report for each, in the order they finish.

    Args:
        recipe: How to open input and model.
        folder: The run folder.
        parts: Which parts.
        workers: Processes; 1 predicts in this one.
        segmenter: A model already open, used when there is one worker.

    Raises:
        ResourceError: A process died, or the device ran out of memory at the smallest batch.
    """
    if workers <= 1 or len(parts) <= 1:
        bench = set_up(recipe, segmenter)
        try:
            for part in parts:
                yield _run_one(bench, RunStore(folder), part)
        finally:
            bench.close()
        return
    yield from _run_many(recipe, folder, parts, min(workers, len(parts)))


def _run_one(bench: Bench, store: RunStore, part: int) -> PartReport:
    result = predict_part(bench, part)
    store.save(result)
    return PartReport(part=part, instances=len(result.instances), notes=dict(result.notes))


def _run_many(recipe: Recipe, folder: Path, parts: list[int], workers: int) -> Iterator[PartReport]:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    waiting = list(reversed(parts))
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(recipe, folder, os.getpid())
    ) as pool:
        try:
            running = {_submitted(pool, waiting.pop()) for _ in range(min(2 * workers, len(waiting)))}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {_submitted(pool, waiting.pop()) for _ in range(min(len(done), len(waiting)))}
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise ResourceError(
                what="a worker process died",
                why="the system killed it, most often for want of memory, or the model crashed",
                mend="run the same command again, with fewer --workers or a smaller --tile; finished parts are kept",
            ) from error
        except BaseException:  # stopped: whatever the processes have in hand is not worth waiting for
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _submitted(pool: ProcessPoolExecutor, part: int) -> Future[PartReport]:
    """A part handed to the pool, which may start a process now.

    A new process first runs the program's main file again. Ours need nothing of it, and a script that calls
    `seggeo.segment` at its top level would call it once more in each of them; so the main module is out of sight meanwhile.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        return pool.submit(_work, part)
    finally:
        sys.modules["__main__"] = main


@cache
def _kept() -> dict[str, Any]:
    """What a process of the pool keeps between calls: its recipe and folder, then its open input and model."""
    return {}


def _start_worker(recipe: Recipe, folder: Path, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent decides what becomes of its processes
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)  # standard output is for results: what a model prints goes where messages go
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    _kept().update(recipe=recipe, store=RunStore(folder))


def _work(part: int) -> PartReport:
    kept = _kept()
    if "bench" not in kept:  # not in the initializer, whose errors are lost
        kept["bench"] = set_up(kept["recipe"])
    return _run_one(kept["bench"], kept["store"], part)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, killed for instance: nobody would read its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def available_cores() -> int:
    """Cores this process may use: affinity, the control group's quota and SLURM's grant."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    limits = [affinity, _quota()]
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted):
        limits.append(int(granted))
    return max(1, min(limits))


def _quota() -> int:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period)) if quota != "max" else 1 << 20
    except (OSError, ValueError):
        return 1 << 20


def available_memory() -> int:
    """Bytes this machine or control group can still give, 8 GB where nobody says."""
    amounts = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration, ValueError):
        amounts.append(8 << 30)
    with suppress(OSError, ValueError):
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(amounts)


def choose_workers(asked: int, *, device: str, memory_bytes: int, parts: int) -> tuple[int, int]:
    """Processes and threads inside each: one process on a GPU, else as many single-threaded ones as cores and memory allow.

    One thread a process is faster than many threads in one, and keeps the arithmetic the same for any number of processes.
    """
    cores = available_cores()
    if device != "cpu":
        return max(1, asked), 0
    fitting = max(1, int(available_memory() * 0.8 // max(1, memory_bytes)))
    workers = asked or max(1, min(cores, fitting, parts))
    return workers, 1


def with_threads(recipe: Recipe, threads: int) -> Recipe:
    """The same recipe with a number of threads."""
    return replace(recipe, threads=threads)
