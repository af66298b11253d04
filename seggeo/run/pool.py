"""Processes that predict parts, and what is done when one of them dies.

Each is spawned, never forked, holds one open input and one model, and says over a pipe of its own which tiles it has in
hand. When it dies its part is begun again by a new process, which takes those tiles one by one; a tile that kills a
process by itself is barred: noted as failed, while everything else goes on. A process whose parent is gone ends itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from seggeo.errors import ResourceError
from seggeo.profiling import recording, span
from seggeo.run.collector import collect_rarely
from seggeo.run.logs import follow_parent
from seggeo.run.part import Bench, PartReport, Recipe, predict_part, set_up
from seggeo.run.signals import GRACE_S, STOPPING, Stop, asked_to_stop, patient
from seggeo.run.watch import NO_CARE, Care, Watch
from seggeo.store import RunStore

log = logging.getLogger(__name__)

_KILLS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)
"""Exit codes of deaths that may have come from outside; a program brings about all others itself."""
_MOST_FROM_OUTSIDE = 3
"""Times that a process may be killed over one tile alone before the tile is blamed."""
_LOOK_S = 0.5


def run_one(bench: Bench, store: RunStore, part: int, watch: Watch, care: Care = NO_CARE) -> PartReport:
    """Predict and store one part, from where an earlier run stopped."""
    with recording(bench.clock):
        begun = store.load_begun(part)
        if begun is not None and begun.notes["tile_key"] != bench.recipe.job.tile_key:
            begun = None
        result = predict_part(bench, part, watch=watch, care=care, begun=begun)
        with span("store"):
            store.save(result)
    spent = bench.clock.take() if bench.clock is not None else None
    return PartReport(part=part, instances=len(result.instances), notes=dict(result.notes), spent=spent)


def run_pool(recipe: Recipe, folder: Path, parts: list[int], workers: int) -> Iterator[PartReport]:
    """Predict parts in several processes; a report for each, in the order they finish.

    Raises:
        ResourceError: Processes die whatever they do.
        Stop: A signal came; what the processes had in hand is saved.
    """
    pool = _Pool(recipe=recipe, folder=folder, todo=list(reversed(parts)))
    pool.crew = [_Worker(number=number) for number in range(workers)]
    try:
        with patient():
            yield from pool.reports()
    finally:
        pool.close()


@dataclass(slots=True)
class _Worker:
    """One process, from our side."""

    number: int
    """From 0; by it processes share the devices."""
    process: Any = None
    pipe: Any = None
    part: int | None = None
    held: tuple[int, ...] | None = None
    """Tiles in hand; None before it touched any."""


@dataclass(slots=True, kw_only=True)
class _Pool:
    """The processes, what is still to do, and what is known of tiles over which one died."""

    recipe: Recipe
    folder: Path
    todo: list[int]
    crew: list[_Worker] = field(default_factory=list)
    care: dict[int, Care] = field(default_factory=dict)
    alone: Counter[int] = field(default_factory=Counter)
    """How often a process died with this tile alone in hand."""
    deaths: int = 0
    """Since a part was done of which a tile was predicted."""
    stillborn: int = 0
    """Of these, before any tile was touched."""

    def reports(self) -> Iterator[PartReport]:
        """Hand out parts until all are done."""
        for worker in self.crew:
            self._give(worker)
        while any(worker.part is not None for worker in self.crew):
            if reason := asked_to_stop():
                raise Stop(reason)
            busy = {worker.pipe: worker for worker in self.crew if worker.part is not None}
            for pipe in wait(list(busy), timeout=_LOOK_S):
                report = self._hear(busy[pipe])
                if report is not None:
                    if report.notes["tiles"] > report.notes["empty"] + len(report.notes["failures"]):
                        self.deaths = self.stillborn = 0
                    yield report
                    self._give(busy[pipe])

    def close(self) -> None:
        """End all processes; those that predict may first save what they hold."""
        alive = [worker for worker in self.crew if worker.process is not None]
        end = time.monotonic() + GRACE_S
        try:
            for worker in alive:
                with suppress(OSError):
                    worker.pipe.send(None)
            for worker in alive:
                worker.process.join(max(0.0, end - time.monotonic()))
        finally:
            for worker in alive:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _give(self, worker: _Worker) -> None:
        """The next part, to a process that is started if need be."""
        worker.part, worker.held = (self.todo.pop() if self.todo else None), None
        if worker.part is None:
            return
        if worker.process is None:
            worker.process, worker.pipe = _started(self.recipe.of_worker(worker.number), self.folder)
        with suppress(OSError):  # it has died: that is heard of next
            worker.pipe.send((worker.part, self.care.get(worker.part, NO_CARE)))

    def _hear(self, worker: _Worker) -> PartReport | None:
        """One message of a process, or its death."""
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return None
        if kind == "holds":
            worker.held = tuple(value)
            return None
        if kind == "failed":
            error, trace = value
            log.debug("a worker process failed\n%s", trace)
            raise error
        report: PartReport = value
        return report

    def _bury(self, worker: _Worker) -> None:
        """Learn from a death, and have another process begin its part again."""
        worker.process.join()
        code = worker.process.exitcode
        worker.pipe.close()
        part, held = worker.part, worker.held
        assert part is not None  # noqa: S101 - only those that work are listened to
        self.deaths += 1
        self.stillborn += held is None
        if self.stillborn > len(self.crew) + 1 or self.deaths > 2 * len(self.crew) + 6:
            raise ResourceError(
                what=f"{self.deaths} worker processes died, one after the other",
                why=f"the last by {_words(code)}: the system killed it, most often for want of memory, or the model crashed",
                mend="run the same command again, with fewer --workers or a smaller --tile; finished parts are kept",
            )
        if held is not None:
            self.care[part] = self._blamed(self.care.get(part, NO_CARE), held, code)
        worker.process = worker.pipe = None
        self.todo.append(part)
        self._give(worker)

    def _blamed(self, care: Care, held: tuple[int, ...], code: int) -> Care:
        if len(held) != 1 or held[0] not in care.alone:
            return replace(care, alone=care.alone | set(held))
        (tile,) = held
        self.alone[tile] += 1
        if code in _KILLS and self.alone[tile] < _MOST_FROM_OUTSIDE:
            return care
        return replace(care, barred={**care.barred, tile: f"its process died twice: {_words(code)}"})


def _words(code: int) -> str:
    """How a process ended."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def _started(recipe: Recipe, folder: Path) -> tuple[Any, Connection]:
    """A new process and our end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, recipe, folder, (os.getpid(), time.monotonic())), daemon=True)
    with without_main():
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the program's main file.

    A new process first runs it again. Ours need nothing of it, and a script that calls `seggeo.segment` at its top level
    would call it once more in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, recipe: Recipe, folder: Path, parent: tuple[int, float]) -> None:
    """Predict the parts that come down the pipe, until None comes; `parent` is who started it, and when."""
    collect_rarely()
    threading.Thread(target=_end_with, args=(parent[0],), daemon=True).start()
    for number in STOPPING:  # sent to the whole group; the parent decides what becomes of its processes
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)  # standard output is for results: what a model prints goes where messages go
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    follow_parent()
    store, bench = RunStore(folder), None
    # While it predicts, all that can come down the pipe is the end.
    stops = lambda: "the parent" if pipe.poll() else None  # noqa: E731
    holds = lambda tiles: pipe.send(("holds", tiles))  # noqa: E731
    with suppress(EOFError, Stop):
        while (order := pipe.recv()) is not None:
            part, care = order
            try:
                bench = bench or _set_up(recipe, parent[1])
                report = run_one(bench, store, part, Watch(store, stops=stops, holds=holds), care)
            except Exception as error:  # noqa: BLE001 - it is the parent's to judge
                _send_error(pipe, error)
                return
            pipe.send(("done", report))


def _set_up(recipe: Recipe, launched: float) -> Bench:
    """Input and model; loading the program is a part of it."""
    ready = time.monotonic()
    bench = set_up(recipe)
    if bench.clock is not None:
        bench.clock.charge("start", ready - launched)
    return bench


def _send_error(pipe: Connection, error: Exception) -> None:
    trace = "".join(traceback.format_exception(error))
    try:
        pipe.send(("failed", (error, trace)))
    except Exception:  # noqa: BLE001 - errors of a user's model may not pickle
        pipe.send(("failed", (RuntimeError(f"{type(error).__name__}: {error}"), trace)))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, killed for instance: nobody would read its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
