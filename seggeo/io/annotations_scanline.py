"""Polygons to pixels, all at once: a pixel belongs to a polygon when its centre does.

1. Every edge is met with the centre lines of the rows it spans; both ends of an edge are ordered first, so two polygons
   that share an edge share its crossings to the last bit, and neighbours never claim a pixel twice nor leave one out.
2. A polygon's crossings of a row, sorted, are where it begins and ends, in turn (holes are rings like others).
3. Polygons of one object are united.

A centre on a left or upper edge is inside, on a right or lower edge outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances, concat
from seggeo.rle import Spans, normalise, ragged_ranges

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
_CROSSINGS = 4 * 10**6
"""Crossings worked on at once: some 300 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Polygons of `n` objects in pixels; corners of pixels are integers, their centres lie at +0.5."""

    row: FloatArray
    """Row of each vertex, `(v,)`."""
    col: FloatArray
    """Column of each vertex, `(v,)`."""
    ring: IntArray
    """First vertex of each ring and the count of vertices, `(r + 1,)`; rings may repeat their first vertex or not."""
    polygon: IntArray
    """First ring of each polygon and the count of rings, `(p + 1,)`."""
    owner: IntArray
    """First polygon of each object and the count of polygons, `(n + 1,)`."""


def fill(outlines: Outlines, height: int, width: int) -> tuple[Instances, IntArray]:
    """Masks of the objects on a grid, with score 1 and label 0, and the positions of those that hold a pixel centre.

    Args:
        outlines: Objects may overlap each other and reach beyond the grid.
        height: Rows of the grid.
        width: Columns of the grid.
    """
    edges = _edges(outlines, height)
    batches: list[Instances] = []
    kept: list[IntArray] = []
    for first, stop in _portions(edges):
        spans = _spans(edges, first, stop, width)
        positions, owner = np.unique(spans.owner, return_inverse=True)
        own = Spans(owner=owner.astype(np.int64), row=spans.row, start=spans.start, stop=spans.stop)
        batches.append(Instances.from_spans(own, score=np.ones(len(positions)), label=0))
        kept.append(positions)
    return concat(batches), np.concatenate(kept) if kept else np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edges:
    """Edges that cross a centre line, their upper end first."""

    top: FloatArray
    left: FloatArray
    slope: FloatArray
    """Columns per row."""
    first: IntArray
    """First row whose centre line is crossed."""
    count: IntArray
    polygon: IntArray
    of_object: IntArray
    """Object of each polygon."""
    height: int


def _edges(outlines: Outlines, height: int) -> _Edges:
    size = np.diff(outlines.ring)
    after = np.arange(1, len(outlines.row) + 1)
    after[outlines.ring[1:][size > 0] - 1] = outlines.ring[:-1][size > 0]
    polygon = np.repeat(np.repeat(np.arange(len(outlines.polygon) - 1), np.diff(outlines.polygon)), size)
    y0, x0, y1, x1 = outlines.row, outlines.col, outlines.row[after], outlines.col[after]
    down = y0 <= y1
    top, left = np.where(down, y0, y1), np.where(down, x0, x1)
    bottom, right = np.where(down, y1, y0), np.where(down, x1, x0)
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.int64) - first
    crossing = np.flatnonzero(count > 0)
    top, left, bottom, right = top[crossing], left[crossing], bottom[crossing], right[crossing]
    of_object = np.repeat(np.arange(len(outlines.owner) - 1), np.diff(outlines.owner))
    return _Edges(
        top=top, left=left, slope=(right - left) / (bottom - top), first=first[crossing], count=count[crossing],
        polygon=polygon[crossing], of_object=of_object, height=height,
    )  # fmt: skip


def _portions(edges: _Edges) -> Iterator[tuple[int, int]]:
    """Ranges of edges that hold whole objects and a bounded number of crossings, unless one object alone has more."""
    total = np.cumsum(edges.count)
    objects = edges.of_object[edges.polygon]
    first, done = 0, 0
    while first < len(total):
        last = int(np.searchsorted(total, done + _CROSSINGS, side="right"))
        inside = objects[min(last, len(objects) - 1)]
        stop = len(total) if last >= len(total) else int(np.searchsorted(objects, inside))
        if stop <= first:
            stop = int(np.searchsorted(objects, objects[first], side="right"))
        yield first, stop
        first, done = stop, int(total[stop - 1])


def _spans(edges: _Edges, first: int, stop: int, width: int) -> Spans:
    row, edge = ragged_ranges(edges.first[first:stop], edges.count[first:stop])
    edge += first
    at = edges.left[edge] + (row + 0.5 - edges.top[edge]) * edges.slope[edge]
    col = np.clip(np.ceil(at - 0.5), 0, width).astype(np.int64)
    base = int(edges.polygon[first])
    # One key for polygon, row and column: sorting a single integer is several times faster than three.
    key = ((edges.polygon[edge] - base) * edges.height + row) * (width + 1) + col
    key.sort()
    line, start = np.divmod(key[0::2], width + 1)
    end = key[1::2] % (width + 1)
    full = start < end
    polygon, row = np.divmod(line[full], edges.height)
    return normalise(Spans(owner=edges.of_object[polygon + base], row=row, start=start[full], stop=end[full]))
