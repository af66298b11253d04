"""A tile that does not fit in memory, predicted in smaller windows and merged by the rules of all seams."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ResourceError
from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.job import Job
from seggeo.merge.readings import owned
from seggeo.merge.sweep import sweep
from seggeo.protocols import Prediction, Segmenter, TileImage
from seggeo.tiling import PartGrid, Tile, TileGrid

log = logging.getLogger(__name__)

LEAST_PX = 128
"""Windows are not made smaller than this."""


def in_quarters(segmenter: Segmenter, image: TileImage, job: Job) -> Prediction:
    """What a segmenter finds in a tile, window by window of about half its side; smaller where these do not fit either.

    Args:
        segmenter: Ran out of memory with the whole tile.
        image: The tile.
        job: Says how readings are matched.

    Raises:
        ResourceError: The smallest windows do not fit.
    """
    height, width = image.tile.window.shape
    halo = max(8, min(job.overlap // 2, max(height, width) // 16))
    side = (max(height, width) + 1) // 2 + halo
    if side < LEAST_PX or side >= max(height, width):
        raise ResourceError(
            what=f"out of memory with a window of {height} x {width} px", why="smaller ones would cut what they should find",
            mend="use fewer --workers, --device cpu, or a machine with more memory",
        )  # fmt: skip
    log.warning("tile %d does not fit in memory; going on with windows of %d px", image.tile.index, side)
    grid = TileGrid(height=height, width=width, tile=side, halo=halo)
    parts = PartGrid(grid=grid)
    capped = False

    def predicted() -> Iterator[tuple[int, Instances, NDArray[np.int64]]]:
        nonlocal capped
        for part in range(len(parts)):
            found, of_tile = [], []
            for piece in parts.tiles(part):
                answer = _one(segmenter, _cut(segmenter, image, piece), job)
                capped |= answer.capped
                mine = answer.instances.take(owned(answer.instances, piece, grid))
                found.append(mine.shift(piece.window.row, piece.window.col))
                of_tile += [piece.index] * len(mine)
            yield part, concat(found), np.array(of_tile, np.int64)

    exclusive = bool(job.model["exclusive"])
    merged = sweep(predicted(), parts, match_iou=float(job.merge["match_iou"]), exclusive=exclusive)
    return Prediction(instances=concat([batch.instances for batch in merged]), capped=capped)


def is_out_of_memory(error: BaseException) -> bool:
    """True of what models and their libraries raise when memory runs out."""
    if isinstance(error, (MemoryError, ResourceError)):
        return True
    return isinstance(error, RuntimeError) and ("out of memory" in str(error).lower() or "can't allocate memory" in str(error))


def _one(segmenter: Segmenter, image: TileImage, job: Job) -> Prediction:
    try:
        (answer,) = segmenter.predict([image])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        return answer
    # Outside the except clause: its traceback holds the tensors that did not fit.
    return in_quarters(segmenter, image, job)


def _cut(segmenter: Segmenter, image: TileImage, piece: Tile) -> TileImage:
    """A part of a tile as the segmenter would get it, with as much context as the tile came with."""
    origin = image.tile.window
    window, core = (w.shift(origin.row, origin.col) for w in (piece.window, piece.core))
    wanted = segmenter.info.extent(window, within=Window.from_bounds(0, 0, image.extent.row_stop, image.extent.col_stop))
    extent = wanted.intersect(image.extent) or window
    rows, cols = extent.slices(image.extent)
    tile = replace(image.tile, window=window, core=core)
    return TileImage(image=image.image[rows, cols], valid=image.valid[rows, cols], tile=tile, extent=extent)
