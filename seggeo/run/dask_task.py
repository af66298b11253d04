"""What a Dask worker does: predict one part, store it in the shared folder, and say that it did.

A worker keeps one open input and one model, those of the run whose part it had last, and predicts one part at a time
however many threads it has. `work` is the task; nothing here imports Dask.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError, ResourceError
from seggeo.profiling import Spent
from seggeo.run.execute import pending
from seggeo.run.part import Bench, PartReport, Recipe, set_up
from seggeo.run.pool import run_one, run_pool
from seggeo.run.signals import STOPPING, Stop, ask_to_stop
from seggeo.run.watch import Watch
from seggeo.store import RunStore

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What all tasks of a run share; pickles."""

    run: str
    """Names the run."""
    recipe: Recipe
    folder: str
    """Run folder, absolute."""
    version: str
    """Of the seggeo that gave the order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What comes back of a part."""

    part: int
    checksum: str
    """The sha256 that its file ends with."""
    instances: int
    notes: Mapping[str, Any]
    spent: Spent | None = None


@dataclass(slots=True)
class _Worker:
    """What this process holds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    run: str = ""
    bench: Bench | None = None
    stopped: set[str] = field(default_factory=set)
    """Runs that shall stop; `*` stands for all."""
    careful: str = ""
    """The run whose part is with a process of its own now."""

    def is_stopped(self, run: str) -> bool:
        return not self.stopped.isdisjoint((run, "*"))

    def bench_of(self, order: Order) -> Bench:
        if self.bench is None or self.run != order.run:
            self.let_go()
            self.bench, self.run = set_up(order.recipe), order.run
        return self.bench

    def let_go(self) -> None:
        """Free the model's memory."""
        if self.bench is not None:
            self.bench.close()
        self.bench = None


@cache
def _worker() -> _Worker:
    return _Worker()


def work(order: Order, part: int, *, is_careful: bool = False) -> Done | None:
    """Predict and store one part; None when the run was asked to stop, and what there is is saved.

    Args:
        order: The run.
        part: Which part.
        is_careful: Predict in a process of its own, which may die, as a worker has died over this part.

    Raises:
        ConfigError: This worker has another seggeo.
        ResourceError: The run folder is not there.
        SeggeoError: As `predict_part` and `set_up` do.
    """
    worker = _worker()
    with worker.lock:
        if worker.is_stopped(order.run):
            return None
        store = _checked(order)
        # Stored before, maybe: by a worker that was lost with its answer.
        _, done = pending(store, [part], tile_key=order.recipe.job.tile_key)
        try:
            report = done[0] if done else _predict(order, part, store, is_careful=is_careful)
        except Stop:
            return None
        return Done(
            part=part, checksum=checksum_of(store.part_path(part)), instances=report.instances, notes=dict(report.notes),
            spent=report.spent,
        )  # fmt: skip


def _predict(order: Order, part: int, store: RunStore, *, is_careful: bool) -> PartReport:
    worker = _worker()
    if not is_careful:
        watch = Watch(store, stops=lambda: "the run" if worker.is_stopped(order.run) else None)
        return run_one(worker.bench_of(order), store, part, watch)
    worker.let_go()
    worker.careful = order.run
    try:
        with _may_have_children():
            (report,) = run_pool(order.recipe, store.folder, [part], 1)
    finally:
        worker.careful = ""
        ask_to_stop(None)
    return report


def stop_run(run: str) -> None:
    """Let this worker save what it has of a run, and do no more of it."""
    worker = _worker()
    worker.stopped.add(run)
    if worker.careful and worker.is_stopped(worker.careful):
        ask_to_stop("the run")


def dask_setup(worker: Any) -> None:
    """Prepare the process of a worker that seggeo starts; Dask calls it.

    Signals reach whole process groups, and whoever leads decides what becomes of the workers. Standard output is for
    results: what a model prints goes where messages go.
    """
    del worker
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)


def dask_teardown(worker: Any) -> None:
    """Save what is in hand before the worker closes; Dask calls it."""
    del worker
    stop_run("*")


def checksum_of(path: Path) -> str:
    """The sha256 that a part's file ends with.

    Raises:
        OSError: It is not there.
    """
    with path.open("rb") as stream:
        stream.seek(-_DIGEST_BYTES, os.SEEK_END)
        return stream.read().hex()


def _checked(order: Order) -> RunStore:
    host, own = socket.gethostname(), version("seggeo")
    if own != order.version:
        raise ConfigError(
            what=f"a Dask worker on {host} has seggeo {own}", why=f"the run is of seggeo {order.version}",
            mend="start the workers from the same environment",
        )  # fmt: skip
    store = RunStore(Path(order.folder))
    if not (store.folder / "job.json").exists():
        raise ResourceError(
            what=f"{order.folder} is not there on {host}", why="Dask workers store parts in the run folder themselves",
            mend="choose a run folder that all machines share: --work, or --job of seggeo plan",
        )  # fmt: skip
    return store


@contextmanager
def _may_have_children() -> Iterator[None]:
    """Let a process that Dask has marked as a daemon start one that ends with it."""
    process = multiprocessing.current_process()
    was = process.daemon
    process.daemon = False
    try:
        yield
    finally:
        process.daemon = was
