"""The label raster: ids, 0 where there is no object, drawn block by block; as a Cloud Optimized GeoTIFF.

`drawn` yields the blocks of full resolution, for every format that holds them:

1. `_strokes` turns the objects, which come by first row, into row intervals, some hundred thousand at a time;
2. `_bands` holds those that reach further down and hands out one band of 512 rows after the other;
3. `_blocks` cuts a band at block columns and draws each block that an object meets.

Where objects overlap (a model of parts and wholes) the smaller one lies on top, of equals the one with the higher id:
a raster holds one id per pixel, and the part would be hidden otherwise. Vector outputs keep both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import OutputError
from seggeo.files import publishing
from seggeo.instances import Objects
from seggeo.output.batches import CHUNK, bounded
from seggeo.output.cog import CogWriter
from seggeo.output.pyramid import BLOCK, Block
from seggeo.protocols import Result, SinkOptions


def write_cog(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a uint32 Cloud Optimized GeoTIFF and return `path`.

    Tiles of 512 px, deflate; background 0 is also the nodata value, so a GIS shows it transparent; overviews hold ids of
    full resolution only (`pyramid.halve`). Blocks without objects take no space. Same result, same bytes.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    check_plane(result, path, "Cloud Optimized GeoTIFF")
    with publishing(path, options.scratch) as temporary, CogWriter(temporary, result.frame, "instance id") as writer:
        for row, col, block in drawn(result):
            writer.put(row, col, block)
        writer.finish()
    return path


def check_plane(result: Result, path: Path, kind: str) -> None:
    """Refuse what has several slices.

    Raises:
        OutputError: It has.
    """
    if result.frame.depth > 1:
        raise OutputError(
            what=f"{path} cannot hold {result.frame.depth} slices",
            why=f"a {kind} holds one image",
            mend="choose another output format with -f",
        )


def drawn(result: Result) -> Iterator[tuple[int, int, Block]]:
    """The blocks of a plane: `drawn_objects` of all its objects."""
    return drawn_objects(result.iter_objects(), exclusive=result.exclusive)


def drawn_objects(batches: Iterable[Objects], *, exclusive: bool) -> Iterator[tuple[int, int, Block]]:
    """Row and column in the grid of blocks, and ids, of every block that holds an object, in row-major order.

    Args:
        batches: Objects of one slice, each batch in order of first row, none above the first of the batch before it.
        exclusive: True when they never share a pixel.
    """
    for row, band in _bands(_strokes(batches, exclusive=exclusive)):
        for col, block in _blocks(band, row * BLOCK):
            yield row, col, block


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strokes:
    """Row intervals to draw, arrays of one length: columns `start` to `stop - 1` of `row` get `id`."""

    row: NDArray[np.int32]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    id: NDArray[np.uint32]
    area: NDArray[np.int64]
    """Pixels of the whole object; empty where objects exclude each other and the order of drawing is of no matter."""

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray[Any] | slice) -> _Strokes:
        area = self.area[which] if len(self.area) else self.area
        return _Strokes(row=self.row[which], start=self.start[which], stop=self.stop[which], id=self.id[which], area=area)


def _bands(drawing: Iterable[tuple[int, _Strokes]]) -> Iterator[tuple[int, list[_Strokes]]]:
    """Block rows from top to bottom, each with all strokes in it."""
    waiting: list[_Strokes] = []
    row = 0
    for top, strokes in drawing:
        while waiting and top >= (row + 1) * BLOCK:  # nothing that comes later can reach this band
            ready, waiting = _split(waiting, (row + 1) * BLOCK)
            yield row, ready
            row += 1
        row = row if waiting else top // BLOCK
        assert top >= row * BLOCK, "objects come in order of their first row"
        waiting.append(strokes)
    while waiting:
        ready, waiting = _split(waiting, (row + 1) * BLOCK)
        yield row, ready
        row += 1


def _split(waiting: list[_Strokes], row_stop: int) -> tuple[list[_Strokes], list[_Strokes]]:
    """Strokes above a row, and the rest."""
    above: list[_Strokes] = []
    below: list[_Strokes] = []
    for strokes in waiting:
        is_above = strokes.row < row_stop
        if is_above.all():
            above.append(strokes)
        else:
            below.append(strokes.take(~is_above))
            above.extend([strokes.take(is_above)] if is_above.any() else [])
    return above, below


def _strokes(batches: Iterable[Objects], *, exclusive: bool) -> Iterator[tuple[int, _Strokes]]:
    """All objects as strokes, each batch with the row of its first."""
    for objects in bounded(batches):
        spans = objects.instances.spans()
        area = np.zeros(0, np.int64) if exclusive else objects.instances.area[spans.owner]
        yield (
            int(objects.instances.box[:, 0].min()),
            _Strokes(
                row=spans.row.astype(np.int32), start=spans.start.astype(np.int32), stop=spans.stop.astype(np.int32),
                id=objects.id[spans.owner], area=area,
            ),
        )  # fmt: skip


def _blocks(band: list[_Strokes], top: int) -> Iterator[tuple[int, Block]]:
    """The blocks of one band that hold objects, left to right; `top` is the first row of the band."""
    last = max((int(strokes.stop.max()) - 1) // BLOCK for strokes in band) if band else -1
    groups = 1 + sum(len(strokes) for strokes in band) // CHUNK
    for group in np.array_split(np.arange(last + 1), groups):
        if len(group):
            yield from _group(band, top, (int(group[0]) * BLOCK, int(group[-1] + 1) * BLOCK))


def _group(band: list[_Strokes], top: int, between: tuple[int, int]) -> Iterator[tuple[int, Block]]:
    left, right = between
    part = _cut(_concat([s.take((s.start < right) & (s.stop > left)) for s in band]), left, right)
    col = part.start // BLOCK
    order = np.lexsort((part.id, -part.area, col)) if len(part.area) else np.argsort(col, kind="stable")
    part, col = part.take(order), col[order]
    cols, first = np.unique(col, return_index=True)
    for c, start, stop in zip(cols, first, [*first[1:], len(col)], strict=True):
        yield int(c), _draw(part.take(slice(start, stop)), top, int(c) * BLOCK)


def _cut(strokes: _Strokes, left: int, right: int) -> _Strokes:
    """Strokes clipped to two columns and cut where a block column begins."""
    start, stop = np.maximum(strokes.start, left), np.minimum(strokes.stop, right)
    first = start // BLOCK
    pieces = (stop - 1) // BLOCK - first + 1
    which = np.repeat(np.arange(len(strokes)), pieces)
    block = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    whole = strokes.take(which)
    return replace(
        whole,
        start=np.maximum(start[which], block * BLOCK).astype(np.int32),
        stop=np.minimum(stop[which], (block + 1) * BLOCK).astype(np.int32),
    )


def _draw(strokes: _Strokes, top: int, left: int) -> Block:
    """One block; later strokes lie on top of earlier ones."""
    block = np.zeros(BLOCK * BLOCK, np.uint32)
    start = (strokes.row - top).astype(np.int64) * BLOCK + (strokes.start - left)
    length = strokes.stop - strokes.start
    ends = np.cumsum(length, dtype=np.int64)
    # Where a pixel is named twice the last assignment stands: numpy promises so for integer indices.
    pixels = np.arange(ends[-1]) + np.repeat(start - (ends - length), length)
    block[pixels] = np.repeat(strokes.id, length)
    return block.reshape(BLOCK, BLOCK)


def _concat(parts: list[_Strokes]) -> _Strokes:
    return _Strokes(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Strokes)})
