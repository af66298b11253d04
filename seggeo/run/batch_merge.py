"""The inputs of a batch, merged and written one by one; what is missing, and the words that predict it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seggeo.config import Execution
from seggeo.errors import IncompleteError
from seggeo.run.batch import Batch
from seggeo.run.checks import check_outputs
from seggeo.run.emit import resubmission
from seggeo.run.outcome import Summary, finish, finished_before
from seggeo.run.part import PartReport
from seggeo.run.plan import Plan
from seggeo.run.profile import Profiler
from seggeo.run.shards import shard_of
from seggeo.run.task import Task
from seggeo.store import RunStore, read_notes


def merge_item(batch: Batch, item: int, execution: Execution) -> tuple[Task, Plan, Summary]:
    """Merge and write one input.

    Raises:
        IncompleteError: Parts are missing, and partial results are not allowed.
        SeggeoError: Of the kind that fits.
    """
    profiler = Profiler(is_wanted=execution.profile)
    task = batch.task(item)
    with profiler.span("plan"):
        plan = task.plan()
    before = finished_before(task.where, plan, RunStore(task.folder))
    if before is not None:
        return task, plan, before
    todo, reports = pending_or_failed(task)
    if todo and not execution.allow_partial:
        raise IncompleteError(
            what=f"{len(todo)} of {len(task.job.parts)} parts of {task.path} are not predicted",
            why="a result without them would lack objects", mend=f"predict them: {resubmission(batch, missing_shards(batch))}",
        )  # fmt: skip
    check_outputs(task.where, plan, replace(execution, overwrite=execution.overwrite or batch.execution.overwrite))
    return task, plan, finish(task.path, plan, task.where, reports, profiler=profiler, command=batch.facts["command"])


def pending_or_failed(task: Task) -> tuple[list[int], list[PartReport]]:
    """Parts of a task without a file, and reports of all others, those with failed tiles among them."""
    store, todo, reports = RunStore(task.folder), [], []
    for part in range(len(task.job.parts)):
        try:
            notes = read_notes(store.part_path(part))
        except (OSError, ValueError):
            todo.append(part)
            continue
        reports.append(PartReport(part=part, instances=notes["predicted"] - notes["foreign"], notes=notes, resumed=True))
    return todo, reports


def missing_shards(batch: Batch) -> list[int]:
    """Shards, from 1, some of whose parts have no file."""
    shard = shard_of(batch.work, batch.shards)
    stores = [RunStore(batch.folder / name) for name in batch.folders]
    there = np.fromiter(
        (stores[item].part_path(int(part)).exists() for item, part in zip(batch.item, batch.part, strict=True)), bool,
        len(batch.item),
    )  # fmt: skip
    return [int(number) + 1 for number in np.unique(shard[~there])]
