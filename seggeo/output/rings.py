"""Outlines of many masks at once, exact along pixel edges, as array arithmetic.

1. `_corners`: a side of a row interval that lies exactly below one of the same kind goes straight on; where it does not
   there is a corner. Corners sorted by (mask, y, x) are, two by two, the ends of horizontal edges.
2. `_edges`: the same corners sorted by (mask, x, side, y) are, two by two, the ends of vertical edges. Left sides are
   walked down and right sides up, so that the mask is always on the left hand: from the end of a vertical edge along the
   horizontal one to the next. That makes a permutation of the vertical edges, and its cycles are the rings.
3. Where two pixels of a mask touch only by a corner, two corners coincide; the one of the right side sorted first keeps
   the pixels apart (4-connected). `_open_pinches` exchanges the two where both lie on one ring, since a ring may not touch
   itself: the ring falls apart into two that touch in one point, which is valid.
4. `_trace`: all rings are walked in step, one edge each at a time; what the first ring of every mask did not reach is traced
   again from one edge of every further cycle.
5. `_parents`: the signed area tells exteriors from holes; the row interval left of a hole leads to the exterior around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from seggeo.rle import IntArray, Spans

_FEW = 24  # walking so many rings in step costs as much as one by one: numpy's overhead per step against Python's per edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Closed rings of a run of masks, sorted by mask and polygon, the exterior of each polygon first."""

    x: IntArray
    """Columns of the vertices, first repeated as last."""
    y: IntArray
    """Rows of the vertices."""
    size: IntArray
    """Vertices of each ring."""
    is_exterior: NDArray[np.bool_]
    mask: IntArray
    """Owner of each ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edges:
    """Vertical edges sorted by (mask, x, side, y)."""

    key: IntArray
    """Packed (mask, x, is left side, top row), ascending."""
    mask: IntArray
    x: IntArray
    begin: IntArray
    """Position of the corner where the walk along the edge begins; `position ^ 1` shares its horizontal edge."""
    end: IntArray
    y_begin: IntArray
    y_end: IntArray

    def following(self) -> IntArray:
        """The vertical edge that comes after each one on its ring."""
        at = np.empty(2 * len(self.begin), np.int64)
        at[self.begin] = np.arange(len(self.begin))
        return np.asarray(at[self.end ^ 1], np.int64)


def rings_of(spans: Spans) -> Rings:
    """The rings around masks given as sorted spans.

    Args:
        spans: Sorted by (owner, row, start), not touching, at least one; rows and columns 0 or more.

    Returns:
        Exteriors run counter-clockwise on screen (rows downwards), holes clockwise; no vertex lies on a straight line.
    """
    bits_x, bits_y = int(spans.stop.max()).bit_length(), int(spans.row.max() + 1).bit_length()
    sides = _sides(spans, bits_x, bits_y)
    corners = _corners(sides, bits_x)
    edges = _open_pinches(corners, _edges(corners, bits_x, bits_y))
    order, size, first = _trace_all(edges.following(), edges.mask)
    ring = np.repeat(np.arange(len(size)), size)
    weighted = edges.x[order] * (edges.y_begin[order] - edges.y_end[order])
    is_exterior = np.add.reduceat(weighted, np.cumsum(size) - size) > 0
    mask = edges.mask[first]
    if len(size) > mask[-1] + 1 or not is_exterior.all():
        parent = _parents(sides, edges, (bits_x, bits_y), (order, ring, first, is_exterior))
        rank = np.lexsort((np.arange(len(size)), ~is_exterior, parent, mask))
        place = np.empty_like(rank)
        place[rank] = np.arange(len(rank))
        order = order[np.argsort(place[ring], kind="stable")]
        size, is_exterior, mask = size[rank], is_exterior[rank], mask[rank]
    x, y = _vertices(edges, order, size)
    return Rings(x=x, y=y, size=2 * size + 1, is_exterior=is_exterior, mask=mask)


def _sides(spans: Spans, bits_x: int, bits_y: int) -> IntArray:
    """Both ends of all spans as packed (mask, row, x, is left side), ascending."""
    line = ((spans.owner << bits_y) | spans.row) << bits_x
    sides = np.empty(2 * len(spans), np.int64)
    sides[0::2] = ((line | spans.start) << 1) | 1
    sides[1::2] = (line | spans.stop) << 1
    return sides


def _corners(sides: IntArray, bits_x: int) -> IntArray:
    """Packed (mask, y, x, is left side) of all corners, ascending."""
    both = np.concatenate([sides, sides + (2 << bits_x)])  # as top of its own row, as bottom of the row above
    both.sort(kind="stable")  # two ascending halves: one merge
    straight = both[1:] == both[:-1]
    keep = np.ones(len(both), bool)
    keep[1:] ^= straight
    keep[:-1] ^= straight
    return both[keep]


def _edges(corners: IntArray, bits_x: int, bits_y: int) -> _Edges:
    is_left, x = corners & 1, (corners >> 1) & ((1 << bits_x) - 1)
    y, mask = (corners >> (1 + bits_x)) & ((1 << bits_y) - 1), corners >> (1 + bits_x + bits_y)
    key = (((((mask << bits_x) | x) << 1) | is_left) << bits_y) | y
    order = _argsort(key)
    top, bottom = order[0::2], order[1::2]
    down = is_left[top] == 1
    begin, end = np.where(down, top, bottom), np.where(down, bottom, top)
    return _Edges(key=key[top], mask=mask[top], x=x[top], begin=begin, end=end, y_begin=y[begin], y_end=y[end])


def _argsort(key: IntArray) -> IntArray:
    bits = max(len(key) - 1, 1).bit_length()
    if int(key.max()).bit_length() + bits > 62:
        return np.argsort(key)
    packed = np.sort((key << bits) | np.arange(len(key)))  # sorting values is several times faster than sorting indices
    return packed & ((1 << bits) - 1)


def _open_pinches(corners: IntArray, edges: _Edges) -> _Edges:
    """The edges with coincident corners of one ring exchanged, so that no ring touches itself."""
    at = np.flatnonzero((corners[:-1] ^ corners[1:]) == 1)
    if not len(at):
        return edges
    touched = np.zeros(int(edges.mask[-1]) + 1, bool)
    edge_at = np.empty(len(corners), np.int64)
    edge_at[edges.begin] = edge_at[edges.end] = np.arange(len(edges.begin))
    touched[edges.mask[edge_at[at]]] = True
    members = np.flatnonzero(touched[edges.mask])
    label = np.empty(len(edges.begin), np.int64)
    label[members] = _cycles(edges.following(), members)
    at = at[label[edge_at[at]] == label[edge_at[at + 1]]]
    moved = np.arange(len(corners))
    moved[at], moved[at + 1] = at + 1, at
    return _Edges(
        key=edges.key, mask=edges.mask, x=edges.x, begin=moved[edges.begin], end=moved[edges.end],
        y_begin=edges.y_begin, y_end=edges.y_end,
    )  # fmt: skip


def _cycles(following: IntArray, members: IntArray) -> IntArray:
    """A number for each member that is the same along its cycle; `members` are whole cycles."""
    place = np.empty(len(following), np.int32)
    place[members] = np.arange(len(members), dtype=np.int32)
    pointers = np.arange(len(members) + 1, dtype=np.int32)
    graph = csr_array((np.ones(len(members), np.int8), place[following[members]], pointers), shape=(len(members),) * 2)
    return np.asarray(connected_components(graph, directed=True, connection="weak")[1], np.int64)


def _trace_all(following: IntArray, mask: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Edges ring after ring, edges in each ring, and the first edge of each ring."""
    first = np.searchsorted(mask, np.arange(int(mask[-1]) + 1))
    order, size = _trace(following, first)
    if len(order) == len(following):
        return order, size, first
    is_left = np.ones(len(following), bool)
    is_left[order] = False
    rest = np.flatnonzero(is_left)
    further = rest[np.unique(_cycles(following, rest), return_index=True)[1]]
    order_2, size_2 = _trace(following, further)
    return np.concatenate([order, order_2]), np.concatenate([size, size_2]), np.concatenate([first, further])


def _trace(following: IntArray, first: IntArray) -> tuple[IntArray, IntArray]:
    """Edges ring after ring from the given first ones, and the number of edges in each ring."""
    size = np.zeros(len(first), np.int64)
    at, ring, step = first, np.arange(len(first)), 0
    edges, rings, steps = [at], [ring], [step]
    while len(ring) > _FEW:
        at, step = following[at], step + 1
        going = at != first[ring]
        if not going.all():
            size[ring[~going]] = step
            at, ring = at[going], ring[going]
        edges.append(at)
        rings.append(ring)
        steps.append(step)
    tails = [_walk(memoryview(following.data), int(e), int(first[r])) for e, r in zip(at, ring, strict=True)]
    size[ring] = np.array([step + len(tail) for tail in tails], np.int64)
    begin = np.cumsum(size) - size
    order = np.empty(int(size.sum()), np.int64)
    for some, owners, rank in zip(edges, rings, steps, strict=True):
        order[begin[owners] + rank] = some
    for tail, r in zip(tails, ring, strict=True):
        order[begin[r] + step : begin[r] + step + len(tail)] = tail
    return order, size


def _walk(following: memoryview, at: int, home: int) -> list[int]:
    path = [at]
    at = following[at]
    while at != home:
        path.append(at)
        at = following[at]
    return path


def _parents(
    sides: IntArray, edges: _Edges, bits: tuple[int, int], rings: tuple[IntArray, IntArray, IntArray, NDArray[np.bool_]]
) -> IntArray:
    """The exterior ring that each ring belongs to; exteriors belong to themselves."""
    order, ring, first, is_exterior = rings
    bits_x, bits_y = bits
    parent = np.arange(len(first))
    holes = np.flatnonzero(~is_exterior)
    ring_of = np.empty(len(order), np.int64)
    ring_of[order] = ring
    # The leftmost edge of a hole is the right side of a row interval; its left side lies on a ring of the same part.
    edge = first[holes]
    mask, row = edges.mask[edge], np.minimum(edges.y_begin[edge], edges.y_end[edge])
    right = ((((mask << bits_y) | row) << bits_x) | edges.x[edge]) << 1
    start = (sides[np.searchsorted(sides, right) - 1] >> 1) & ((1 << bits_x) - 1)
    left = (((((mask << bits_x) | start) << 1) | 1) << bits_y) | row
    parent[holes] = ring_of[np.searchsorted(edges.key, left, side="right") - 1]
    while not is_exterior[parent].all():  # that ring may be another hole, further left: ask for its parent
        parent = parent[parent]
    return parent


def _vertices(edges: _Edges, order: IntArray, size: IntArray) -> tuple[IntArray, IntArray]:
    """Columns and rows of closed rings."""
    stop = np.cumsum(2 * size + 1)
    begin = stop - (2 * size + 1)
    at = 2 * np.arange(len(order)) + np.repeat(np.arange(len(size)), size)
    x, y = np.empty(int(stop[-1]), np.int64), np.empty(int(stop[-1]), np.int64)
    x[at] = x[at + 1] = edges.x[order]
    y[at], y[at + 1] = edges.y_begin[order], edges.y_end[order]
    x[stop - 1], y[stop - 1] = x[begin], y[begin]
    return x, y
