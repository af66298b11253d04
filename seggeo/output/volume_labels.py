"""Label volumes: ids, 0 where there is no object, drawn slice by slice; the memory is that of a few blocks, whatever the size.

`drawn_volume` yields the blocks of a volume in the order of its work grid, `filed` in the order of the input's file, which
differs where the volume was sliced along another axis. `bands` makes stretches of whole rows of them, `slices` whole slices,
for formats that hold no blocks. `FileGrid` says what the volume looks like in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.instances import Objects
from seggeo.output.labels import drawn_objects
from seggeo.output.pyramid import BLOCK, Block
from seggeo.output.volume_order import reordered
from seggeo.protocols import Result

Ids = NDArray[np.unsignedinteger[Any]]
Placed = tuple[int, int, int, Block]
"""Slice, row and column in its grid of blocks, and the ids there, uint32 `(BLOCK, BLOCK)`, 0 beyond the volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGrid:
    """A volume in the order of the file's axes, slowest first."""

    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    """Axis of the work grid (0 for z, 1 for row, 2 for col) that runs along each axis of the file."""
    matrix: NDArray[np.float64]
    """World x, y and z from `(axis 0, axis 1, axis 2, 1)`, `(3, 4)`; whole numbers are voxel centres."""
    spacing: tuple[float, float, float]
    """Steps along the axes, in the frame's unit."""

    @classmethod
    def of(cls, frame: Frame) -> FileGrid:
        """The grid of a frame; without a placement z, row and col are the file's axes and the first voxel is the origin."""
        axes = (0, 1, 2) if frame.placement is None else frame.placement.axes
        first, second, third = (axes.index(axis) for axis in range(3))
        order = (first, second, third)
        shape, spacing = (frame.depth, frame.height, frame.width), frame.spacing
        matrix = np.zeros((3, 4))
        if frame.placement is None:
            matrix[[2, 1, 0], [0, 1, 2]] = spacing
        else:
            matrix[:] = frame.placement.matrix
        return cls(
            shape=(shape[first], shape[second], shape[third]), order=order, matrix=matrix[:, [*order, 3]],
            spacing=(spacing[first], spacing[second], spacing[third]),
        )  # fmt: skip


def is_volume(frame: Frame) -> bool:
    """True for what has slices, be it one; an image has none."""
    return frame.depth > 1 or frame.placement is not None


def id_type(result: Result) -> np.dtype[np.unsignedinteger[Any]]:
    """The smaller of uint16 and uint32 that holds all ids."""
    return np.dtype(np.uint16 if result.count <= np.iinfo(np.uint16).max else np.uint32)


def narrowed(ids: Ids, kind: np.dtype[np.unsignedinteger[Any]]) -> Ids:
    """The same ids as another type.

    Raises:
        OutputError: One does not fit.
    """
    if ids.dtype.itemsize > kind.itemsize and ids.size and ids.max() > np.iinfo(kind).max:
        raise OutputError(
            what=f"object {ids.max()} does not fit into {kind}",
            why="the result holds fewer objects than its highest id says, which is a fault of seggeo",
            mend="choose ome-zarr, whose ids have 32 bits, with -f, and report this",
        )
    return ids.astype(kind, copy=False)


def drawn_volume(result: Result) -> Iterator[Placed]:
    """Every block that holds an object, in order of slice, row and column of the work grid."""
    last = -1
    filled = (objects for objects in result.iter_objects() if len(objects))
    for z, batches in groupby(filled, key=_slice_of):
        assert z > last, "slices come in ascending order"
        last = z
        for row, col, block in drawn_objects(map(_by_row, batches), exclusive=result.exclusive):
            yield z, row, col, block


def filed(result: Result, scratch: Path) -> Iterator[Placed]:
    """Every block that holds an object, in order of the axes of the file; `FileGrid.shape` is the shape.

    Args:
        result: Of a volume.
        scratch: A folder; where the orders differ the volume passes through a file there, as big as its ids at most.
    """
    grid, drawn = FileGrid.of(result.frame), drawn_volume(result)
    if grid.order == (0, 1, 2):
        return drawn
    kind = id_type(result)
    small = ((z, row, col, narrowed(block, kind)) for z, row, col, block in drawn)
    return reordered(small, (result.frame.depth, *result.frame.window.shape), grid.order, kind, scratch)


def bands(placed: Iterable[Placed], shape: tuple[int, int, int], kind: np.dtype[np.unsignedinteger[Any]]) -> Iterator[Ids]:
    """All rows of a volume, slice after slice, up to `BLOCK` of them at a time, `(rows, width)`; read only.

    Stretches without an object are one and the same array, by which a writer knows what it has packed before.

    Args:
        placed: Blocks in order of slice, row and column.
        shape: Of the volume.
        kind: Type of the ids.
    """
    depth, height, width = shape
    per_slice = -(-height // BLOCK)
    blanks = [np.zeros((_rows(i, height), width), kind) for i in sorted({0, per_slice - 1})]

    def blank(place: int) -> Ids:
        return blanks[-1 if place % per_slice == per_slice - 1 else 0]

    done = 0
    for (z, row), group in groupby(placed, key=lambda one: one[:2]):
        place = z * per_slice + row
        yield from map(blank, range(done, place))
        band = np.zeros((_rows(row, height), width), kind)
        for _, _, col, block in group:
            part = band[:, col * BLOCK : (col + 1) * BLOCK]
            part[:] = narrowed(block[: part.shape[0], : part.shape[1]], kind)
        yield band
        done = place + 1
    yield from map(blank, range(done, depth * per_slice))


def slices(placed: Iterable[Placed], shape: tuple[int, int, int], kind: np.dtype[np.unsignedinteger[Any]]) -> Iterator[Ids]:
    """All slices of a volume in order, `(height, width)` each; arguments are those of `bands`."""
    rows = bands(placed, shape, kind)
    for _ in range(shape[0]):
        yield np.concatenate(list(islice(rows, -(-shape[1] // BLOCK))))


def _rows(row: int, height: int) -> int:
    return min(BLOCK, height - row * BLOCK)


def _slice_of(objects: Objects) -> int:
    z = objects.instances.z
    assert z[0] == z[-1], "a batch is of one slice"
    return int(z[0])


def _by_row(objects: Objects) -> Objects:
    """The same objects in order of their first row: ids of a volume ascend by the first slice, not within one."""
    top = objects.instances.box[:, 0]
    if (top[1:] >= top[:-1]).all():
        return objects
    order = np.argsort(top, kind="stable")
    return Objects(
        instances=objects.instances.take(order), id=objects.id[order], n_tiles=objects.n_tiles[order],
        cut=objects.cut[order], touches_edge=objects.touches_edge[order],
    )  # fmt: skip
