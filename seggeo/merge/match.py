"""Which readings of two tiles are of one object.

1. `_find_sides` lists, for every reading, the neighbours whose window meets its box: one *side* of one seam.
2. `_share` joins the row intervals of the two sides of all seams at once: pixels shared in the strip both windows saw,
   and those shared in its trusted middle, a margin away from both windows' inner sides.
3. `_agree` links mutual best pairs by IoU *inside the trusted strip*, so that an object cut by both windows still
   scores 1.0; ties (nested masks that look alike in the strip) go one to one, larger with larger.
4. `_cross` compares where readings cross the line between the two cores: the same run of pixels on both sides of the
   line means one object, even where one tile saw several pieces of it (combs, bends, spirals).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from seggeo.merge.readings import IntArray, Lattice, Readings, meeting
from seggeo.rle import Spans, meetings, ragged_ranges

SAME_RUN = 0.5
"""Two crossing runs above this IoU are one: above one half a run has one partner at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of readings that share pixels; `a` and `b` are positions in the sweep's pool, tile of a < tile of b."""

    a: IntArray
    b: IntArray
    shared: IntArray
    """Pixels in both masks."""
    iou: NDArray[np.float64]
    """IoU inside the trusted strip; 0 where neither has a pixel there."""
    seen_a: IntArray
    """Pixels of `a` inside the trusted strip."""
    seen_b: IntArray
    linked: NDArray[np.bool_]
    """True for readings of one object."""

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: NDArray[np.bool_] | IntArray) -> Pairs:
        """The picked pairs, in that order."""
        return Pairs(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def no_pairs() -> Pairs:
    """An empty table."""
    none = np.zeros(0, np.int64)
    return Pairs(a=none, b=none, shared=none, iou=none.astype(float), seen_a=none, seen_b=none, linked=none.astype(bool))


def join_pairs(x: Pairs, y: Pairs) -> Pairs:
    """The pairs of both tables."""
    return Pairs(**{f.name: np.concatenate([getattr(x, f.name), getattr(y, f.name)]) for f in fields(x)})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """One row for each reading and each neighbour's window that it meets."""

    reading: IntArray
    seam: IntArray
    """Key of the seam, later its rank among the seams at hand."""
    strip: IntArray
    """`(m, 4)` half-open bounds of what both windows saw."""
    trusted: IntArray
    """`(m, 4)` the strip less a margin at both windows' inner sides; may be empty."""
    axis: IntArray
    """Direction of the line between the two cores: 0 along columns, 1 along rows, -1 none (corners)."""
    line: IntArray
    """`(m, 3)` place of that line, first and one-past-last position along it."""

    def take(self, which: NDArray[np.bool_] | IntArray) -> _Sides:
        return _Sides(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def match(pool: Readings, lattice: Lattice, step: int, match_iou: float) -> Pairs:
    """All pairs that share pixels across the seams completed by part `step`, links decided.

    Args:
        pool: Readings in flight, in work-grid pixels.
        lattice: The job's grid.
        step: The newest part in the pool; seams between older parts were matched before.
        match_iou: Least IoU in the trusted strip.
    """
    a, b = _find_sides(pool, lattice, step)
    if not len(a.seam):
        return no_pairs()
    # Only readings beside a new seam are unpacked: a river held open across the image must not be, again and again.
    involved = np.unique(np.concatenate([a.reading, b.reading]))
    near = pool.take(involved)
    a, b = (replace(side, reading=np.searchsorted(involved, side.reading)) for side in (a, b))
    spans = near.instances.spans()
    pairs, side_a, side_b = _share(a, b, spans)
    same_class = near.instances.label[pairs.a] == near.instances.label[pairs.b]
    crossing = _cross(a, b, spans, near.instances.box)
    linked = np.isin(side_a * len(b.seam) + side_b, crossing) & same_class
    candidates = np.flatnonzero(same_class & (pairs.iou >= match_iou))
    size = near.area[pairs.a] + near.area[pairs.b]
    chosen = _agree(side_a[candidates], side_b[candidates], pairs.iou[candidates], size[candidates])
    linked[candidates[chosen]] = True
    return replace(pairs, a=involved[pairs.a], b=involved[pairs.b], linked=linked)


def _find_sides(pool: Readings, lattice: Lattice, step: int) -> tuple[_Sides, _Sides]:
    """Sides of the seams whose later tile lies in part `step`: those of lower tiles, those of higher tiles."""
    box, z = pool.instances.box.astype(np.int64), pool.instances.z.astype(np.int64)
    tile = pool.tile
    own_part = lattice.part(z, pool.row, pool.col)
    found: list[_Sides] = []
    is_low: list[NDArray[np.bool_]] = []
    for down, right in lattice.offsets:
        reading, (row, col) = meeting(box, pool.row + down, pool.col + right, lattice)
        new = np.maximum(lattice.part(z[reading], row, col), own_part[reading]) == step
        reading, row, col = reading[new], row[new], col[new]
        other = lattice.index(z[reading], row, col)
        low, high = np.minimum(tile[reading], other), np.maximum(tile[reading], other)
        places = (pool.row[reading], pool.col[reading], row, col)
        found.append(
            _Sides(
                reading=reading,
                seam=low * len(lattice.grid) + high,
                strip=_common(places, lattice, 0),
                trusted=_common(places, lattice, lattice.margin),
                **_border(places, (down, right), lattice),
            )  # fmt: skip
        )
        is_low.append(tile[reading] == low)
    sides = _Sides(**{f.name: np.concatenate([getattr(s, f.name) for s in found]) for f in fields(_Sides)})
    lows = np.concatenate(is_low)
    seams = np.intersect1d(sides.seam[lows], sides.seam[~lows])
    rank = np.searchsorted(seams, sides.seam)
    met = (rank < len(seams)) & (seams[np.minimum(rank, max(len(seams) - 1, 0))] == sides.seam) if len(seams) else lows & False
    ranked = replace(sides, seam=rank)
    return ranked.take(met & lows), ranked.take(met & ~lows)


Places = tuple[IntArray, IntArray, IntArray, IntArray]


def _common(places: Places, lattice: Lattice, margin: int) -> IntArray:
    """`(m, 4)` what the windows of two tiles share, each first shrunk by `margin` at its inner sides."""
    row, col, other_row, other_col = places

    def bounds(windows: IntArray, i: IntArray, count: int) -> tuple[IntArray, IntArray]:
        return windows[i, 0] + margin * (i > 0), windows[i, 1] - margin * (i < count - 1)

    top, bottom = bounds(lattice.row_window, row, lattice.grid.rows)
    top_2, bottom_2 = bounds(lattice.row_window, other_row, lattice.grid.rows)
    left, right = bounds(lattice.col_window, col, lattice.grid.cols)
    left_2, right_2 = bounds(lattice.col_window, other_col, lattice.grid.cols)
    sides = (np.maximum(top, top_2), np.maximum(left, left_2), np.minimum(bottom, bottom_2), np.minimum(right, right_2))
    return np.stack(sides, axis=1)


def _border(places: Places, offset: tuple[int, int], lattice: Lattice) -> dict[str, IntArray]:
    """Axis and line between the cores of two tiles."""
    row, col, other_row, other_col = places
    count = len(row)
    if offset in ((1, 0), (-1, 0)):
        line = (lattice.row_core[np.maximum(row, other_row), 0], lattice.col_core[col, 0], lattice.col_core[col, 1])
        axis = 0
    elif offset in ((0, 1), (0, -1)):
        line = (lattice.col_core[np.maximum(col, other_col), 0], lattice.row_core[row, 0], lattice.row_core[row, 1])
        axis = 1
    else:
        return {"axis": np.full(count, -1), "line": np.zeros((count, 3), np.int64)}
    return {"axis": np.full(count, axis), "line": np.stack(line, axis=1)}


def _gather(spans: Spans, reading: IntArray, row: IntArray, row_stop: IntArray) -> Spans:
    """Row intervals of the given readings inside the given rows; `owner` is the position in `reading`."""
    lift = int(spans.row.max()) + 2
    at = spans.owner * lift + spans.row
    first = np.searchsorted(at, reading * lift + row)
    last = np.searchsorted(at, reading * lift + np.minimum(row_stop, lift - 1))
    index, owner = ragged_ranges(first, np.maximum(last - first, 0))
    return Spans(owner=owner, row=spans.row[index], start=spans.start[index], stop=spans.stop[index])


def _in_strip(sides: _Sides, spans: Spans) -> Spans:
    """Row intervals of every side inside its strip, in strip coordinates."""
    got = _gather(spans, sides.reading, sides.strip[:, 0], sides.strip[:, 2])
    start = np.maximum(got.start, sides.strip[got.owner, 1])
    stop = np.minimum(got.stop, sides.strip[got.owner, 3])
    cut = Spans(owner=got.owner, row=got.row - sides.strip[got.owner, 0], start=start, stop=stop)
    inside = Spans(owner=cut.owner, row=cut.row, start=start - sides.strip[got.owner, 1], stop=stop - sides.strip[got.owner, 1])
    return inside.take(start < stop)


def _share(a: _Sides, b: _Sides, spans: Spans) -> tuple[Pairs, IntArray, IntArray]:
    """Pairs with shared pixels (not linked yet), and the sides of each pair."""
    in_a, in_b = _in_strip(a, spans), _in_strip(b, spans)
    size = np.maximum((a.strip[:, 2:] - a.strip[:, :2]).max(axis=0), 1)
    lines_a, lines_b = a.seam[in_a.owner] * size[0] + in_a.row, b.seam[in_b.owner] * size[0] + in_b.row
    width = size[1] + 1
    i, j = meetings(lines_a * width + in_a.start, in_a.stop - in_a.start, lines_b * width + in_b.start, in_b.stop - in_b.start)
    start, stop = np.maximum(in_a.start[i], in_b.start[j]), np.minimum(in_a.stop[i], in_b.stop[j])
    side = in_a.owner[i]
    seen = _trusted_length(a, Spans(owner=side, row=in_a.row[i], start=start, stop=stop))
    pair, inverse = np.unique(side * len(b.seam) + in_b.owner[j], return_inverse=True)
    side_a, side_b = pair // len(b.seam), pair % len(b.seam)
    both = np.bincount(inverse, weights=seen, minlength=len(pair))
    seen_a = np.bincount(in_a.owner, weights=_trusted_length(a, in_a), minlength=len(a.seam))[side_a]
    seen_b = np.bincount(in_b.owner, weights=_trusted_length(b, in_b), minlength=len(b.seam))[side_b]
    pairs = Pairs(
        a=a.reading[side_a], b=b.reading[side_b], iou=both / np.maximum(seen_a + seen_b - both, 1),
        shared=np.bincount(inverse, weights=stop - start, minlength=len(pair)).astype(np.int64),
        seen_a=seen_a.astype(np.int64), seen_b=seen_b.astype(np.int64), linked=np.zeros(len(pair), bool),
    )  # fmt: skip
    return pairs, side_a, side_b


def _trusted_length(sides: _Sides, spans: Spans) -> IntArray:
    """Pixels of each interval (strip coordinates) inside the trusted strip."""
    trusted = (sides.trusted - np.tile(sides.strip[:, :2], 2))[spans.owner]
    length = np.minimum(spans.stop, trusted[:, 3]) - np.maximum(spans.start, trusted[:, 1])
    return np.where((spans.row >= trusted[:, 0]) & (spans.row < trusted[:, 2]), np.maximum(length, 0), 0)


def _agree(side_a: IntArray, side_b: IntArray, iou: NDArray[np.float64], size: IntArray) -> IntArray:
    """Positions of mutual best pairs; among exact ties one to one, larger total area first."""
    if not len(iou):
        return np.zeros(0, np.int64)
    best_a, best_b = np.zeros(int(side_a.max()) + 1), np.zeros(int(side_b.max()) + 1)
    np.maximum.at(best_a, side_a, iou)
    np.maximum.at(best_b, side_b, iou)
    open_ = np.flatnonzero((iou >= best_a[side_a]) & (iou >= best_b[side_b]))
    open_ = open_[np.lexsort((side_b[open_], side_a[open_], -size[open_]))]
    chosen: list[IntArray] = []
    while len(open_):
        first_a, first_b = (np.unique(side[open_], return_index=True)[1] for side in (side_a, side_b))
        won = open_[np.intersect1d(first_a, first_b)]
        chosen.append(won)
        open_ = open_[~np.isin(side_a[open_], side_a[won]) & ~np.isin(side_b[open_], side_b[won])]
    return np.concatenate(chosen)


def _cross(a: _Sides, b: _Sides, spans: Spans, box: NDArray[np.int32]) -> IntArray:
    """Pairs of sides that cross the line between their cores in the same run, as `side_a * len(b) + side_b`."""
    side_a, start_a, stop_a = _crossing_runs(a, spans, box)
    side_b, start_b, stop_b = _crossing_runs(b, spans, box)
    if not len(side_a) or not len(side_b):
        return np.zeros(0, np.int64)
    length = int(max(stop_a.max(), stop_b.max())) + 1
    at_a, at_b = a.seam[side_a] * length + start_a, b.seam[side_b] * length + start_b
    i, j = meetings(at_a, stop_a - start_a, at_b, stop_b - start_b)
    both = np.minimum(stop_a[i], stop_b[j]) - np.maximum(start_a[i], start_b[j])
    union = (stop_a - start_a)[i] + (stop_b - start_b)[j] - both
    same = both > SAME_RUN * union
    return np.unique(side_a[i[same]] * len(b.seam) + side_b[j[same]])


def _crossing_runs(sides: _Sides, spans: Spans, box: NDArray[np.int32]) -> tuple[IntArray, IntArray, IntArray]:
    """Side, first and one-past-last position of every run of pixels that lies on both sides of the line."""
    runs: list[tuple[IntArray, IntArray, IntArray]] = []
    for axis, along in ((0, _runs_along_rows), (1, _runs_along_cols)):
        low, high = box[sides.reading, axis], box[sides.reading, axis + 2]
        which = np.flatnonzero((sides.axis == axis) & (low < sides.line[:, 0]) & (high > sides.line[:, 0]))
        if len(which):
            owner, start, stop = along(sides.reading[which], sides.line[which], spans)
            first, last = sides.line[which[owner], 1], sides.line[which[owner], 2]
            start, stop = np.maximum(start, first), np.minimum(stop, last)
            keep = start < stop
            runs.append((which[owner[keep]], start[keep], stop[keep]))
    if not runs:
        none = np.zeros(0, np.int64)
        return none, none, none
    side, start, stop = (np.concatenate(columns) for columns in zip(*runs, strict=True))
    return side, start, stop


def _runs_along_rows(reading: IntArray, line: IntArray, spans: Spans) -> tuple[IntArray, IntArray, IntArray]:
    """Columns that a reading covers both above and below a horizontal line."""
    above = _gather(spans, reading, line[:, 0] - 1, line[:, 0])
    below = _gather(spans, reading, line[:, 0], line[:, 0] + 1)
    if not len(above) or not len(below):
        none = np.zeros(0, np.int64)
        return none, none, none
    width = int(max(above.stop.max(), below.stop.max())) + 1
    i, j = meetings(
        above.owner * width + above.start, above.stop - above.start, below.owner * width + below.start, below.stop - below.start
    )
    return above.owner[i], np.maximum(above.start[i], below.start[j]), np.minimum(above.stop[i], below.stop[j])


def _runs_along_cols(reading: IntArray, line: IntArray, spans: Spans) -> tuple[IntArray, IntArray, IntArray]:
    """Rows that a reading covers both left and right of a vertical line, as runs of rows."""
    got = _gather(spans, reading, line[:, 1], line[:, 2])
    at = line[got.owner, 0]
    got = got.take((got.start < at) & (got.stop > at))
    begins = np.concatenate([[True], (got.owner[1:] != got.owner[:-1]) | (got.row[1:] != got.row[:-1] + 1)])[: len(got)]
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:], [len(got)]]).astype(np.int64) - 1
    return got.owner[first], got.row[first], got.row[last[: len(first)]] + 1
