"""A batch: inputs planned once, predicted in shards by any number of processes on any number of machines, merged at the end.

    JOB/batch.json      what was planned; written last, so that a folder without it is no batch
    JOB/parts.bin       input, part and expected work of every part, in the order of the shards
    JOB/items/0000/     run folder of the first input
    JOB/nodes/          what each `seggeo run` tells of itself; nobody decides anything by it

Processes share the folder and nothing else. A part is done when its file is there; whoever predicts it twice writes the
same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Execution, Settings, to_json
from seggeo.errors import ConfigError, OutputError, SeggeoError, SourceError, StoreError
from seggeo.files import holds_files, translated
from seggeo.run.checks import check_formats, check_outputs, check_room
from seggeo.run.enrich import check_extras
from seggeo.run.formats import check_fit, with_formats
from seggeo.run.naming import places, target_of, target_text
from seggeo.run.plan import Plan, estimate, make_plan
from seggeo.run.shards import part_work, shard_of
from seggeo.run.task import Task, freeze, load_task
from seggeo.store import RunStore, pack, publish, sealed, unpack, unsealed

BATCH, PARTS, ITEMS, NODES = "batch.json", "parts.bin", "items", "nodes"
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One input to plan."""

    path: str
    stem: str
    settings: Callable[[], Settings]
    """Its own; may refuse what is said of this input."""
    slide: Mapping[str, Any] = field(default_factory=dict)
    """Of a count: what is known of the slide; JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What `batch.json` and `parts.bin` say."""

    folder: Path
    kind: str
    """segment or count-cells."""
    shards: int
    out: Path | None
    execution: Execution
    """How it was planned to run; a machine may do otherwise."""
    folders: tuple[str, ...]
    """Of the inputs, below the batch's own."""
    failures: tuple[Mapping[str, Any], ...]
    """Inputs that could not be planned."""
    facts: Mapping[str, Any]
    """Tiles, parts, memory and disk as planned; the command line."""
    item: NDArray[np.int32]
    part: NDArray[np.int32]
    work: NDArray[np.float32]

    def task(self, item: int) -> Task:
        """One input's task."""
        return load_task(self.folder / self.folders[item])

    def of_shard(self, number: int, count: int) -> Iterator[tuple[int, list[int]]]:
        """Inputs and parts of shard `number` of `count`, from 1."""
        mine = shard_of(self.work, count) == number - 1
        for item in np.unique(self.item[mine]):
            yield int(item), self.part[mine & (self.item == item)].tolist()

    def parts_of(self, item: int) -> list[int]:
        """All parts of an input."""
        return list(range(int((self.item == item).sum())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An input that is planned, or why it is not."""

    item: Item
    plan: Plan | None = None
    error: SeggeoError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a batch shall be, besides its inputs."""

    kind: str
    """segment or count-cells."""
    out: Path | None
    """Where results go."""
    execution: Execution
    """How it is to be run."""
    shards: int = 0
    """Into how many the work is cut; 0: one for each eight parts, at most 1000."""
    command: tuple[str, ...] = ()
    """The command line, for the record."""
    check: Callable[[Plan, Item], None] | None = None
    """Called with each plan; may refuse it."""


def plan_batch(folder: Path, items: Sequence[Item], wish: Wish) -> Generator[Planned, None, Batch]:
    """Plan inputs into a folder; one that cannot be planned does not keep the others from it.

    A folder that a killed `plan` left, or the same batch, is gone over again; nothing that is predicted is lost.

    Raises:
        OutputError: The folder holds something else, or another batch.
        SeggeoError: What the only input was refused for.
    """
    _check_free(folder, wish.execution)
    folders, failures, planned, needs = [], [], [], []
    for number, item in enumerate(items):
        name = f"{ITEMS}/{number // 1000:04d}/{number:06d}"
        try:
            plan = _plan_one(folder / name, item, wish)
        except SeggeoError as error:
            if len(items) == 1:
                raise
            failures.append({"path": item.path, "id": item.stem, "slide": to_json(item.slide), "error": _error(error)})
            yield Planned(item=item, error=error)
            continue
        folders.append(name)
        planned.append(part_work(plan.job, plan.overview.valid))
        needs.append({**estimate(plan), "tiles": len(plan.job.grid)})
        yield Planned(item=item, plan=plan)
    if wish.execution.check_space:
        check_room(wish.out or Path(), folder, sum(need["disk_bytes"] for need in needs))
    parts = sum(len(work) for work in planned)
    facts = {
        "command": list(wish.command), "parts": parts, "tiles": sum(need["tiles"] for need in needs),
        "memory_bytes": max((need["memory_bytes"] for need in needs), default=0),
        "disk_bytes": sum(need["disk_bytes"] for need in needs), "seggeo": version("seggeo"),
    }  # fmt: skip
    arrays = {
        "item": np.repeat(np.arange(len(planned), dtype=np.int32), [len(work) for work in planned]),
        "part": np.concatenate([np.arange(len(work), dtype=np.int32) for work in planned] or [np.zeros(0, np.int32)]),
        "work": np.concatenate(planned or [np.zeros(0, np.float32)]),
    }  # fmt: skip
    publish(folder / PARTS, pack(arrays, {}))
    values = {
        "schema": _SCHEMA, "kind": wish.kind, "shards": wish.shards or max(1, min(1000, -(-parts // 8))),
        "out": None if wish.out is None else target_text(wish.out), "execution": to_json(wish.execution), "folders": folders,
        "failures": failures, "facts": facts,
    }  # fmt: skip
    publish(folder / BATCH, sealed(values))
    return load_batch(folder)


def _check_free(folder: Path, execution: Execution) -> None:
    """Refuse a folder of something else; a batch that is planned again must be the same, input by input."""
    if not (folder / BATCH).exists() and not (folder / ITEMS).exists() and holds_files(folder):
        raise OutputError(
            what=f"{folder} is not a batch",
            why="it holds files that seggeo plan did not make",
            mend="choose another --job folder",
        )
    if execution.work is not None:
        raise ConfigError(what=f"--work {execution.work}", why="run folders of a batch lie in its own", mend="use --job alone")
    with translated(folder):
        (folder / NODES).mkdir(parents=True, exist_ok=True)


def _plan_one(folder: Path, item: Item, wish: Wish) -> Plan:
    settings = with_formats(item.path, item.settings(), wish.out)
    check_formats(settings)
    where = places(wish.out, item.stem, settings.output.format, folder)
    plan = make_plan(item.path, settings, wish.execution)
    if wish.check is not None:
        wish.check(plan, item)
    check_fit(where.outputs, plan.job.frame)
    check_extras(plan.settings.output, plan.job.frame)
    check_outputs(where, plan, wish.execution)
    store = RunStore(folder)
    store.open(plan.job, overwrite=wish.execution.overwrite)
    freeze(plan, item.path, wish.out, item.stem, store, item.slide)
    return plan


def _error(error: SeggeoError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__, "exit": error.exit_code, "what": error.what, "why": error.why, "mend": error.mend,
    }  # fmt: skip


def load_batch(folder: Path) -> Batch:
    """The batch of a folder.

    Raises:
        SourceError: There is none.
        StoreError: It is damaged or of another version.
    """
    path = folder / BATCH
    try:
        values = unsealed(path.read_bytes())
        arrays, _ = unpack((folder / PARTS).read_bytes())
        out = values["out"]
        return Batch(
            folder=folder, kind=values["kind"], shards=int(values["shards"]), out=None if out is None else target_of(out),
            execution=Execution(**values["execution"]), folders=tuple(values["folders"]), failures=tuple(values["failures"]),
            facts=values["facts"], item=arrays["item"], part=arrays["part"], work=arrays["work"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path):
            raise SourceError(
                what=f"{folder} is no batch", why=f"it has no {BATCH}" if folder.is_dir() else "there is no such folder",
                mend="give the --job folder of a seggeo plan that has ended",
            ) from error  # fmt: skip
        raise StoreError(
            what=f"{folder} is no batch that can be read", why=str(error), mend="make one with seggeo plan, in an empty folder"
        ) from error
