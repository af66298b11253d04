"""Which objects lie near a seam of a tiled run, so that what tiling costs is seen apart from what the model costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.job import Job
from seggeo.rle import IntArray
from seggeo.store import RunStore
from seggeo.tiling import TileGrid


def read_job(folder: Path) -> Job:
    """The job of a run folder.

    Raises:
        StoreError: The folder has no job.json that can be read.
        SourceError: It is no job of this version.
    """
    values = RunStore(folder).load_job_values()
    try:
        return Job.from_json(values)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            what=f"{folder / 'job.json'} is not a job of this seggeo",
            why=" ".join(str(error).split()) or type(error).__name__,
            mend="name the run folder that `seggeo segment` left beside its outputs (scene.seggeo)",
        ) from error


def near_seams(instances: Instances, grid: TileGrid) -> NDArray[np.bool_]:
    """True for objects whose box reaches the pixels that two neighbouring windows share, `(n,)`.

    The strip lies along the whole line between two rows (columns) of tiles; without an overlap it is one pixel on each side.
    """
    box = instances.box.astype(np.int64)
    rows = [(grid.row_window(i + 1)[0], grid.row_window(i)[1], grid.row_core(i)[1]) for i in range(grid.rows - 1)]
    cols = [(grid.col_window(i + 1)[0], grid.col_window(i)[1], grid.col_core(i)[1]) for i in range(grid.cols - 1)]
    return _meets(box[:, 0], box[:, 2], rows) | _meets(box[:, 1], box[:, 3], cols)


def _meets(start: IntArray, stop: IntArray, strips: list[tuple[int, int, int]]) -> NDArray[np.bool_]:
    """True where the half-open interval shares a pixel with a strip `(first, stop, middle)`."""
    if not strips:
        return np.zeros(len(start), bool)
    # Both columns ascend, so the first strip that ends behind an interval's start is the one to look at.
    first = np.array([min(low, middle - 1) for low, _, middle in strips])
    last = np.array([max(high, middle + 1) for _, high, middle in strips])
    at = np.searchsorted(last, start, side="right")
    return (at < len(first)) & (first[np.minimum(at, len(first) - 1)] < stop)


def check_run(job: Job, frame: Frame | None) -> None:
    """Refuse a run whose grid is not the one compared.

    Raises:
        ConfigError: Sizes differ.
    """
    if frame is not None and (frame.height, frame.width) != (job.frame.height, job.frame.width):
        raise ConfigError(
            what="the run is not of this grid",
            why=f"it worked on {job.frame.height} x {job.frame.width} px, and {frame.height} x {frame.width} px are compared",
            mend="leave out --run, or compare at the run's own resolution",
        )
