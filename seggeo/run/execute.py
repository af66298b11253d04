"""Run the parts of a job, in this process or in several, and report each as it is done; parts that are done stay done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from seggeo.protocols import Segmenter
from seggeo.run.dask_cluster import Crew
from seggeo.run.machine import available_cores, available_memory
from seggeo.run.part import PartReport, Recipe, set_up
from seggeo.run.pool import run_one, run_pool
from seggeo.run.signals import asked_to_stop, patient
from seggeo.run.watch import Watch
from seggeo.store import RunStore, read_notes


def pending(
    store: RunStore, parts: Iterable[int], *, tile_key: str | None = None
) -> tuple[list[int], list[PartReport]]:  # fmt: skip
    """Of some parts those still to run, and reports of those already done.

    Args:
        store: The run folder.
        parts: Which parts.
        tile_key: Of the job; parts of another, which ran here at the same time, are still to run. None: any is taken.
    """
    todo, done = [], []
    for part in parts:
        path = store.part_path(part)
        try:
            notes = read_notes(path)
        except (OSError, ValueError):
            todo.append(part)
            continue
        if notes["failures"] or tile_key not in (None, notes["tile_key"]):
            todo.append(part)  # tiles that failed get another chance
        else:
            done.append(PartReport(part=part, instances=notes["predicted"] - notes["foreign"], notes=notes, resumed=True))
    return todo, done


def run_parts(
    recipe: Recipe,
    folder: Path,
    parts: list[int],
    *,
    workers: int,
    segmenter: Segmenter | None = None,
    crew: Crew | None = None,
) -> Iterator[PartReport]:
    """Predict parts and store them; yields a report for each, in the order they finish.

    Args:
        recipe: How to open input and model.
        folder: The run folder.
        parts: Which parts.
        workers: Processes; 1 predicts in this one.
        segmenter: A model already open, used when there is one worker whose device the recipe does not name.
        crew: Dask workers that predict instead.

    Raises:
        ResourceError: A process died, or the device ran out of memory at the smallest batch.
    """
    if crew is not None:
        from seggeo.run.dask_parts import run_dask

        yield from run_dask(recipe, folder, parts, crew)
        return
    if workers > 1 and len(parts) > 1:
        yield from run_pool(recipe, folder, parts, min(workers, len(parts)))
        return
    bench, store = set_up(recipe.of_worker(0), None if recipe.devices else segmenter), RunStore(folder)
    try:
        for part in parts:
            with patient():
                report = run_one(bench, store, part, Watch(store, stops=asked_to_stop))
            yield report
    finally:
        bench.close()


def choose_workers(asked: int, *, device: str, memory_bytes: int, parts: int, devices: int = 0) -> tuple[int, int]:
    """Processes and threads inside each: one on each GPU, else as many single-threaded ones as cores and memory allow.

    One thread a process is faster than many threads in one, and keeps the arithmetic the same for any number of processes.
    """
    if devices or device != "cpu":
        return asked or max(1, devices), 0
    cores = available_cores()
    fitting = max(1, int(available_memory() * 0.8 // max(1, memory_bytes)))
    workers = asked or max(1, min(cores, fitting, parts))
    return workers, 1
