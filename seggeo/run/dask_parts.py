"""Predict parts with Dask workers.

Only numbers travel: a worker gets the recipe and a part's number, stores the part in the shared folder by itself and
answers with its checksum and counts. `_submit` keeps a few tasks a worker in flight, `_judge` looks at what comes back.
A part whose worker died goes to a process of its own beside a worker, where tiles are taken one by one and one that
kills is barred. A scheduler that dies costs the parts in hand; those that are done have their files.
"""

from __future__ import annotations

import os
import queue
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError, ResourceError, SeggeoError, SeggeoWarning
from seggeo.run.dask_cluster import Crew, connected
from seggeo.run.dask_task import Done, Order, checksum_of, stop_run, work
from seggeo.run.part import PartReport, Recipe
from seggeo.run.signals import Stop, asked_to_stop, patient
from seggeo.store import RunStore

_AHEAD = 4
"""Tasks in flight for each thread of the workers: none waits for work, and the scheduler never holds many."""
_LOOK_S = 0.5
_ANSWER_S = 5.0
"""Wait for the few bytes that a finished task has answered."""
_COUNT_S = 2.0
"""How often the workers are counted."""
_ALONE_S = 300.0
"""Wait for workers of a running scheduler when there is none; jobs of SLURM may wait in their queue for days."""
_TELL_S = 15.0
"""After which the wait is told."""
_STOP_S = 5.0
"""Wait for workers to save what they have in hand."""
_SEEN_S = 20.0
"""Wait for a file that a worker has stored to be seen here: network file systems remember that it was not there."""
_MOST_DEATHS = 3
"""Workers that may be lost with a part whose tiles cannot be what kills them."""


def run_dask(recipe: Recipe, folder: Path, parts: list[int], crew: Crew) -> Iterator[PartReport]:
    """Predict parts with Dask workers; a report for each, in the order they finish.

    Raises:
        ConfigError: Dask is missing, here or there.
        ResourceError: Scheduler or workers are lost, or the run folder is not shared.
        Stop: A signal came; what the workers had in hand is saved.
    """
    order = Order(run=uuid.uuid4().hex, recipe=_from_anywhere(recipe), folder=str(folder.absolute()), version=version("seggeo"))
    with connected(crew) as client:
        run = _Run(client=client, crew=crew, order=order, todo=deque(parts))
        try:
            with patient():
                yield from run.reports()
        finally:
            run.let_go()


def _from_anywhere(recipe: Recipe) -> Recipe:
    """The recipe with paths that do not depend on the folder a process was started in."""
    reading = recipe.reading
    tissue = reading.tissue if reading.tissue in ("auto", "none") else os.path.abspath(reading.tissue)
    weights = recipe.request.weights
    return replace(
        recipe, path=recipe.path if "://" in recipe.path else os.path.abspath(recipe.path),
        reading=replace(reading, aoi=reading.aoi and reading.aoi.absolute(), tissue=tissue),
        request=replace(recipe.request, weights=weights and weights.absolute()),
    )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Run:
    """What is to do, what is in flight, and who is there to do it."""

    client: Any
    crew: Crew
    order: Order
    todo: deque[int]
    flying: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Future and part by key."""
    landed: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    deaths: Counter[int] = field(default_factory=Counter)
    """How often a worker was lost with a part in hand."""
    threads: int = 0
    counted_s: float = -_COUNT_S
    seen_s: float = field(default_factory=time.monotonic)
    """When there last was a worker."""
    is_awaited: bool = False
    """Said that there is none."""
    is_told: bool = False
    """Said that some have several threads."""

    def reports(self) -> Iterator[PartReport]:
        """Keep the workers busy until all parts are done."""
        while self.todo or self.flying:
            if reason := asked_to_stop():
                self._stop()
                raise Stop(reason)
            self._count()
            self._submit()
            try:
                landed = self.landed.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            report = self._judge(landed)
            if report is not None:
                yield report

    def let_go(self) -> None:
        """Take back what is still in flight."""
        for future, _ in self.flying.values():
            future.release()
        self.flying.clear()

    def _submit(self) -> None:
        while self.todo and len(self.flying) < _AHEAD * max(1, self.threads):
            part = self.todo.popleft()
            tries = self.deaths[part]
            key = f"seggeo-part-{self.order.run}-{part}-{tries}-{time.monotonic_ns()}"
            future = self.client.submit(work, self.order, part, is_careful=tries > 0, key=key, pure=False)
            self.flying[key] = (future, part)
            future.add_done_callback(self.landed.put)

    def _judge(self, future: Any) -> PartReport | None:
        """What became of a task; its part is to do again where that is nothing."""
        _, part = self.flying.pop(future.key)
        done = self._answer(future, part)
        if done is None:
            self.todo.append(part)
            return None
        _check_seen(RunStore(Path(self.order.folder)), done)
        return PartReport(part=part, instances=done.instances, notes=dict(done.notes), spent=done.spent)

    def _answer(self, future: Any, part: int) -> Done | None:
        """What a task came back with; None where its worker was lost, before or after it was done."""
        from distributed import KilledWorker

        if future.status == "lost":
            return None
        try:
            done: Done | None = future.result(timeout=_ANSWER_S)
        except TimeoutError:  # lost with its worker meanwhile
            return None
        except KilledWorker as error:
            self.deaths[part] += 1
            if self.deaths[part] > _MOST_DEATHS:
                raise _dying(part, error) from error
            return None
        except Exception as error:
            if future.status == "error":
                raise _as_ours(error, self.crew) from error
            raise _lost(self.crew) from error  # cancelled, or could not be asked for
        return done

    def _count(self) -> None:
        """Count the workers now and then; say so when there is none."""
        now = time.monotonic()
        if now - self.counted_s < _COUNT_S:
            return
        self.counted_s = now
        try:
            threads: list[int] = list(self.client.nthreads().values())
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise _lost(self.crew) from error
        self.threads = sum(threads)
        if any(count > 1 for count in threads) and not self.is_told:
            self.is_told = True
            text = "Dask workers with several threads predict one part at a time: start them with --nthreads 1"
            warnings.warn(SeggeoWarning(text), stacklevel=2)
        if threads:
            self.seen_s, self.is_awaited = now, False
        elif now - self.seen_s > _TELL_S and not self.is_awaited:
            self.is_awaited = True
            warnings.warn(SeggeoWarning(f"--dask {self.crew.where} has no workers yet: waiting"), stacklevel=2)
        if now - self.seen_s > _ALONE_S and not self.crew.where.startswith("slurm"):
            raise ResourceError(
                what=f"--dask {self.crew.where} has no workers", why=f"none came in {_ALONE_S:g} s, or all have died",
                mend="start some with dask worker, and run the same command again; finished parts are kept",
            )  # fmt: skip

    def _stop(self) -> None:
        """Have the workers save what they have in hand, and wait for that, but not for long."""
        end = time.monotonic() + _STOP_S
        self.todo.clear()
        with suppress(OSError, TimeoutError, ValueError, RuntimeError):
            self.client.run(stop_run, self.order.run, on_error="ignore")
        while self.flying and time.monotonic() < end:
            with suppress(queue.Empty):
                self.flying.pop(self.landed.get(timeout=0.1).key)


def _lost(crew: Crew) -> ResourceError:
    return ResourceError(
        what=f"the Dask scheduler of --dask {crew.where} is lost", why="it ended, or cannot be reached any more",
        mend="start it again and run the same command: finished parts are kept",
    )  # fmt: skip


def _dying(part: int, error: Exception) -> ResourceError:
    return ResourceError(
        what=f"{_MOST_DEATHS + 1} Dask workers died, one after the other, with part {part} in hand",
        why=f"{' '.join(str(error).split())[:300]}: most often for want of memory",
        mend="give the workers more memory, or use a smaller --tile, and run the same command again; finished parts are kept",
    )


def _as_ours(error: Exception, crew: Crew) -> Exception:
    """The error of a task, in words where it is not ours already."""
    if isinstance(error, SeggeoError):
        return error
    if isinstance(error, ImportError):
        return ConfigError(
            what=f"a Dask worker of --dask {crew.where} cannot run seggeo", why=str(error),
            mend="start the workers from an environment that has the same packages as this one",
        )  # fmt: skip
    return error


def _check_seen(store: RunStore, done: Done) -> None:
    """Wait until the file of a part is seen here as the worker has written it.

    Raises:
        ResourceError: It is not, so that the folder is not shared.
    """
    path, end = store.part_path(done.part), time.monotonic() + _SEEN_S
    while True:
        with suppress(OSError):
            if checksum_of(path) == done.checksum:
                return
        if time.monotonic() > end:
            break
        time.sleep(0.2)
        with suppress(OSError):
            os.listdir(path.parent)  # makes network file systems look again
    raise ResourceError(
        what=f"part {done.part} is not in {store.folder} as a Dask worker has stored it",
        why="that folder is not the same one on all machines",
        mend="choose a run folder that they share: --work, or --job of seggeo plan",
    )
