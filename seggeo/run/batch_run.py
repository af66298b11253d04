"""One shard of a batch, predicted on this machine."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from seggeo.config import Execution
from seggeo.errors import IncompleteError, SeggeoError
from seggeo.run.batch import Batch
from seggeo.run.dask_cluster import crew_of
from seggeo.run.devices import devices_of
from seggeo.run.execute import choose_workers, pending, run_parts
from seggeo.run.part import PartReport
from seggeo.run.task import Task
from seggeo.store import RunStore

_WITHOUT_TORCH = frozenset({"threshold", "regions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An input whose parts come next."""

    item: int
    task: Task
    todo: int
    """Parts still to predict."""
    tiles: int
    """In all its parts, done or not."""


def run_shard(
    batch: Batch, number: int, count: int, execution: Execution
) -> Generator[Begun | tuple[int, PartReport], None, None]:  # fmt: skip
    """Predict the parts of one shard that are not done yet.

    Args:
        batch: The batch.
        number: Which shard, from 1.
        count: Of how many.
        execution: How this machine runs it.

    Raises:
        SeggeoError: Of the kind that fits; an input that fails does not keep the shard's others from being predicted.
    """
    failed: list[SeggeoError] = []
    shared = list(batch.of_shard(number, count))
    for item, parts in shared:
        try:
            yield from _run_item(batch, item, parts, execution)
        except SeggeoError as error:
            if len(shared) == 1 or error.exit_code in (7, 75):
                raise
            failed.append(error)
    if failed:
        raise IncompleteError(
            what=f"{len(failed)} of {len(shared)} inputs of this shard failed", why=f"the first: {failed[0].what}",
            mend="mend them and run the same command again",
        )  # fmt: skip


def _run_item(
    batch: Batch, item: int, parts: list[int], execution: Execution
) -> Generator[Begun | tuple[int, PartReport], None, None]:  # fmt: skip
    task = batch.task(item)
    todo, done = pending(RunStore(task.folder), parts, tile_key=task.job.tile_key)
    tiles = sum(len(task.job.parts.tiles(part)) for part in parts)
    yield Begun(item=item, task=task, todo=len(todo), tiles=tiles)
    for report in done:
        yield item, report
    if not todo:
        return
    devices = devices_of(execution)
    workers, threads = choose_workers(
        execution.workers, device=_device(task, execution), memory_bytes=int(batch.facts["memory_bytes"]), parts=len(todo),
        devices=len(devices),
    )  # fmt: skip
    recipe = replace(task.recipe(execution, threads), devices=devices, profile=execution.profile)
    crew = crew_of(execution.dask, memory_bytes=int(batch.facts["memory_bytes"]), folder=batch.folder)
    for report in run_parts(recipe, task.folder, todo, workers=workers, crew=crew):
        yield item, report


def _device(task: Task, execution: Execution) -> str:
    """Where a model will predict on this machine."""
    if task.request.name in _WITHOUT_TORCH:
        return "cpu"
    from seggeo.models.device import choose_device

    return str(choose_device(execution.device))
