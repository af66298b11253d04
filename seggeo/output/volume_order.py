"""A volume turned from the order in which its slices come to that in which a file wants them, by way of a file on disk.

1. The slices are written one after the other, each laid out so that the axis the file wants slowest comes first;
2. a slab of that axis is then one stretch of every slice, and slabs are read and turned within a fixed memory.

Blocks without an object are holes of the file. It is written with plain writes and mapped for reading only: a disk that
is full is then an error, and not the end of the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seggeo.output.pyramid import BLOCK, Block

_SLAB = 1 << 25
"""Bytes turned at once, more only where one slice of the file has more."""


def reordered(
    placed: Iterable[tuple[int, int, int, NDArray[Any]]], shape: tuple[int, int, int], order: tuple[int, int, int],
    kind: np.dtype[np.unsignedinteger[Any]], scratch: Path,
) -> Iterator[tuple[int, int, int, Block]]:  # fmt: skip
    """The blocks of the turned volume that hold an object, in order of slice, row and column.

    Args:
        placed: Slice, row and column in the grid of blocks, and ids of each block that holds an object.
        shape: Of the volume as it comes.
        order: Axis of the volume that becomes the first, second and third.
        kind: Type of the ids.
        scratch: Folder of the file, which is gone in the end.
    """
    spool = scratch / "order.raw"
    is_turned = order[0] == 2
    depth, height, width = shape
    layout = (depth, width, height) if is_turned else shape
    try:
        with spool.open("wb") as file:
            file.truncate(depth * height * width * kind.itemsize)
            for z, row, col, block in placed:
                part = block[: height - row * BLOCK, : width - col * BLOCK].astype(kind.newbyteorder("<"), copy=False)
                _write(file, part.T if is_turned else part, _corner(layout, z, row, col, is_turned=is_turned), layout)
        # The axes of the file on disk, as the caller wants them.
        axes = tuple({0: 0, 1: 2, 2: 1}[axis] if is_turned else axis for axis in order)
        yield from _slabs(spool, layout, axes, kind)
    finally:
        spool.unlink(missing_ok=True)


def _corner(layout: tuple[int, int, int], z: int, row: int, col: int, *, is_turned: bool) -> int:
    """Place of a block's first voxel in the file, in voxels."""
    line, first = (col, row) if is_turned else (row, col)
    return (z * layout[1] + line * BLOCK) * layout[2] + first * BLOCK


def _write(file: IO[bytes], part: NDArray[Any], corner: int, layout: tuple[int, int, int]) -> None:
    """Write the lines of a block that hold something."""
    for line in np.flatnonzero(part.any(axis=1)):
        file.seek((corner + int(line) * layout[2]) * part.itemsize)
        file.write(part[line].tobytes())


def _slabs(
    spool: Path, layout: tuple[int, int, int], axes: tuple[int, ...], kind: np.dtype[np.unsignedinteger[Any]]
) -> Iterator[tuple[int, int, int, Block]]:
    shape = [layout[axis] for axis in axes]
    step = max(1, _SLAB // (shape[1] * shape[2] * kind.itemsize))
    for first in range(0, shape[0], step):
        # Mapped anew each time, so that pages read before do not count as memory of this process.
        volume = np.memmap(spool, kind.newbyteorder("<"), "r", shape=layout).transpose(axes)
        yield from _blocks(np.array(volume[first : first + step], kind, order="C"), first)


def _blocks(slab: NDArray[Any], first: int) -> Iterator[tuple[int, int, int, Block]]:
    """The blocks of some slices that hold an object; `first` is the first slice."""
    height, width = slab.shape[1:]
    for z, plane in enumerate(slab):
        for row in range(0, height, BLOCK):
            filled = plane[row : row + BLOCK].any(axis=0)
            for col in range(0, width, BLOCK):
                if filled[col : col + BLOCK].any():
                    part = plane[row : row + BLOCK, col : col + BLOCK]
                    block = np.zeros((BLOCK, BLOCK), np.uint32)
                    block[: part.shape[0], : part.shape[1]] = part
                    yield first + z, row // BLOCK, col // BLOCK, block
