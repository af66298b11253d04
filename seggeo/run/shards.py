"""Who predicts what: parts in one order, cut into shards of equal work; and which shard a batch system means.

The cut follows from the plan alone, so that every process makes the same one and no two talk to each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError
from seggeo.job import Job

_EMPTY_TILE = 0.02
"""Work of a tile without data, beside that of a full one."""
ARRAY_VARIABLES = {
    "SLURM_ARRAY_TASK_ID": "SLURM", "PBS_ARRAY_INDEX": "PBS", "PBS_ARRAYID": "Torque", "LSB_JOBINDEX": "LSF",
    "SGE_TASK_ID": "SGE",
}  # fmt: skip
"""Where batch systems tell a job which of an array it is."""


def part_work(job: Job, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What each part of a job will cost, in full tiles: `(parts,)`.

    Args:
        job: The job.
        valid: `(h, w)` where an overview of the whole image has data; that of a volume, slices side by side, tells nothing.
    """
    grid, parts = job.grid, job.parts
    if grid.depth > 1:
        valid = np.ones((1, 1), np.bool_)
    height, width = valid.shape
    tiles = [[min(start + parts.side, n) - start for start in range(0, n, parts.side)] for n in (grid.rows, grid.cols)]
    rows = [(grid.row_core(i * parts.side)[0], grid.row_core(i * parts.side + n - 1)[1]) for i, n in enumerate(tiles[0])]
    cols = [(grid.col_core(i * parts.side)[0], grid.col_core(i * parts.side + n - 1)[1]) for i, n in enumerate(tiles[1])]
    top, bottom = _scaled(rows, height / grid.height, height)
    left, right = _scaled(cols, width / grid.width, width)
    above = np.zeros((height + 1, width), np.int32)
    np.cumsum(valid, 0, dtype=np.int32, out=above[1:])
    before = np.zeros((len(top), width + 1), np.int32)
    np.cumsum(above[bottom] - above[top], 1, out=before[:, 1:])
    seen = before[:, right] - before[:, left]
    share = seen / np.outer(bottom - top, right - left)
    work = np.outer(tiles[0], tiles[1]) * (_EMPTY_TILE + (1 - _EMPTY_TILE) * share)
    slices = [min(start + parts.layers, grid.depth) - start for start in range(0, grid.depth, parts.layers)]
    return np.outer(slices, work.ravel()).ravel().astype(np.float32)


def _scaled(bounds: Sequence[tuple[int, int]], scale: float, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last pixel of an overview, at least one."""
    start, stop = np.array(bounds, np.float64).T * scale
    first = np.minimum(start.astype(np.int64), size - 1)
    return first, np.clip(np.ceil(stop).astype(np.int64), first + 1, size)


def shard_of(work: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The shard, 0 to count - 1, of each of some parts in order; shards differ by the work of a part at most."""
    done = np.cumsum(work, dtype=np.float64)
    if not len(done) or done[-1] <= 0:
        return np.zeros(len(work), np.int64)
    middle = (done - work / 2) / done[-1]
    return np.asarray(np.minimum(middle * count, count - 1), np.int64)


def parse_part(text: str, count: int) -> tuple[int, int]:
    """Number from 1, and number of shards, of `3/16`, or of `3` when there are `count`.

    Raises:
        ConfigError: It is neither, or there is no such shard.
    """
    found = re.fullmatch(r"(\d+)(?:/(\d+))?", text.strip())
    number, of = (int(found[1]), int(found[2] or count)) if found else (0, count)
    if not 1 <= number <= of:
        raise ConfigError(
            what=f"part {text!r}", why=f"parts are numbered from 1 to {of}", mend=f"use --part 1/{of}, or plan with --shards"
        )
    return number, of


def part_from(environment: Mapping[str, str]) -> str | None:
    """The number that a batch system's array gives this job; None outside of one.

    Raises:
        ConfigError: Two of them speak at once, or one says something else than a number.
    """
    said = {name: environment.get(name, "") for name in ARRAY_VARIABLES}
    said = {name: value for name, value in said.items() if value not in ("", "undefined", "0")}
    if len(said) > 1:
        raise ConfigError(
            what=f"{' and '.join(f'{name}={value}' for name, value in said.items())} are set at once",
            why="each says which part of the job this is", mend="say it with --part, or unset one of them",
        )  # fmt: skip
    for name, value in said.items():
        if not value.isdigit():
            raise ConfigError(
                what=f"{name} is {value!r}", why=f"{ARRAY_VARIABLES[name]} counts jobs of an array", mend="say it with --part 1"
            )
        return value
    return None
