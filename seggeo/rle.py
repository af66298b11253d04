"""Masks as runs, for one mask or for a million at once.

Two forms of the same pixels:

* *runs*: run lengths of one mask inside its tight box, row by row, background first (the order of COCO's RLE,
  which goes column by column, with rows and columns exchanged); uint32; compact, what files hold.
* *spans*: for many masks at once, arrays `owner, row, start, stop`: columns `start` to `stop - 1` of `row` belong to
  mask `owner`; sorted by (owner, row, start), never touching. Clipping, counting and drawing are plain array
  arithmetic on spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import GeometryError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Row intervals of many masks; four int64 arrays of one length, see the module's head."""

    owner: IntArray
    row: IntArray
    start: IntArray
    stop: IntArray

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: NDArray[np.bool_] | IntArray) -> Spans:
        """Spans picked by a boolean or index array, in that order."""
        return Spans(owner=self.owner[which], row=self.row[which], start=self.start[which], stop=self.stop[which])

    def clip(self, row: int, col: int, row_stop: int, col_stop: int) -> Spans:
        """The parts of all spans inside half-open bounds."""
        start, stop = np.maximum(self.start, col), np.minimum(self.stop, col_stop)
        keep = (self.row >= row) & (self.row < row_stop) & (start < stop)
        return Spans(owner=self.owner[keep], row=self.row[keep], start=start[keep], stop=stop[keep])

    def areas(self, count: int) -> IntArray:
        """Pixels of each of `count` masks."""
        return np.bincount(self.owner, weights=self.stop - self.start, minlength=count).astype(np.int64)


def concat_spans(parts: list[Spans]) -> Spans:
    """All spans one after the other, unsorted."""
    return Spans(
        owner=np.concatenate([p.owner for p in parts]) if parts else np.zeros(0, np.int64),
        row=np.concatenate([p.row for p in parts]) if parts else np.zeros(0, np.int64),
        start=np.concatenate([p.start for p in parts]) if parts else np.zeros(0, np.int64),
        stop=np.concatenate([p.stop for p in parts]) if parts else np.zeros(0, np.int64),
    )


def encode(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Runs of one boolean mask `(h, w)`, background first, summing to `h * w`."""
    flat = np.ravel(np.asarray(mask, bool))
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    runs = np.diff(bounds).astype(np.uint32)
    return np.concatenate([np.zeros(1, np.uint32), runs]) if flat.size and flat[0] else runs


def decode(runs: NDArray[np.uint32], height: int, width: int) -> NDArray[np.bool_]:
    """The boolean mask `(height, width)` that `encode` turned into `runs`."""
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def runs_to_spans(runs: NDArray[np.uint32], first: IntArray, box: NDArray[np.int32]) -> Spans:
    """Spans of `n` masks, in the frame of their boxes.

    Args:
        runs: All run lengths, uint32 `(R,)`.
        first: Where each mask's runs begin, int64 `(n + 1,)`.
        box: Half-open `(row, col, row_stop, col_stop)`, int32 `(n, 4)`.
    """
    count = len(first) - 1
    lengths = np.diff(first)
    ends = np.cumsum(runs, dtype=np.int64)
    base = np.concatenate([[0], ends])[first[:-1]]
    owner = np.repeat(np.arange(count), lengths)
    position = np.arange(len(runs)) - np.repeat(first[:-1], lengths)
    is_mask = (position & 1 == 1) & (runs > 0)
    owner = owner[is_mask]
    stop = ends[is_mask] - base[owner]
    start = stop - runs[is_mask]
    width = (box[:, 3] - box[:, 1]).astype(np.int64)[owner]
    row = start // width
    crossed = (stop - 1) // width - row
    if crossed.any():  # runs that go on in the next row, where a row is covered from side to side
        pieces = crossed + 1
        piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        owner, row, start, stop, width = (np.repeat(a, pieces) for a in (owner, row, start, stop, width))
        row = row + piece
        start, stop = np.maximum(start, row * width), np.minimum(stop, (row + 1) * width)
    left, top = box[:, 1].astype(np.int64)[owner], box[:, 0].astype(np.int64)[owner]
    shift = left - row * width
    return Spans(owner=owner, row=row + top, start=start + shift, stop=stop + shift)


def spans_to_runs(spans: Spans, count: int) -> tuple[NDArray[np.uint32], IntArray, NDArray[np.int32]]:
    """`(runs, first, box)` of `count` masks, the inverse of `runs_to_spans`, with tight boxes.

    Every mask from 0 to `count - 1` needs at least one span.
    """
    if count == 0:
        return np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros((0, 4), np.int32)
    begins = np.searchsorted(spans.owner, np.arange(count))
    last = np.concatenate([begins[1:], [len(spans)]]) - 1
    top, bottom = spans.row[begins], spans.row[last] + 1
    left, right = np.minimum.reduceat(spans.start, begins), np.maximum.reduceat(spans.stop, begins)
    box = np.stack([top, left, bottom, right], axis=1).astype(np.int32)
    width, height = right - left, bottom - top
    base = (spans.row - top[spans.owner]) * width[spans.owner] - left[spans.owner]
    start, stop = base + spans.start, base + spans.stop
    is_first = np.zeros(len(spans), bool)
    is_first[begins] = True
    joined = np.concatenate([[False], (start[1:] == stop[:-1])]) & ~is_first  # full rows run on
    start, owner = start[~joined], spans.owner[~joined]
    stop = stop[np.concatenate([~joined[1:], [True]])]
    begins = np.searchsorted(owner, np.arange(count))
    ends = np.concatenate([begins[1:], [len(owner)]])
    background = start.copy()
    background[1:] -= stop[:-1]
    background[begins] = start[begins]
    tail = height * width - stop[ends - 1]
    if max(int(background.max()), int(tail.max()), int((stop - start).max())) >= 1 << 32:
        raise GeometryError(
            what="one mask has a gap of more than 4 294 967 295 px inside its box",
            why="run lengths are stored in 32 bits",
            mend="report far-apart pieces as instances of their own",
        )
    has_tail = (tail > 0).astype(np.int64)
    lengths = 2 * (ends - begins) + has_tail
    first = np.concatenate([[0], np.cumsum(lengths)])
    runs = np.empty(first[-1], np.uint32)
    at = first[:-1][owner] + 2 * (np.arange(len(owner)) - begins[owner])
    runs[at] = background
    runs[at + 1] = stop - start
    runs[first[1:][has_tail == 1] - 1] = tail[has_tail == 1]
    return runs, first, box


def labels_to_spans(labels: NDArray[np.integer]) -> tuple[Spans, IntArray]:
    """Spans of all positive labels of an integer image `(h, w)` and the label of each mask, ascending.

    Pixels of one label make one mask, connected or not; 0 and below are background.
    """
    width = labels.shape[1]
    flat = np.ravel(labels)
    begins = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    if flat.size:
        begins[::width] = True
    starts = np.flatnonzero(begins)
    stops = np.concatenate([starts[1:], [flat.size]])
    values = flat[starts]
    keep = values > 0
    starts, stops, values = starts[keep], stops[keep], values[keep]
    order = np.argsort(values, kind="stable")
    ids, owner = np.unique(values[order], return_inverse=True)
    row = starts[order] // width
    spans = Spans(owner=owner.astype(np.int64), row=row, start=starts[order] - row * width, stop=stops[order] - row * width)
    return spans, ids.astype(np.int64)


def normalise(spans: Spans) -> Spans:
    """The same pixels as sorted spans that neither overlap nor touch."""
    order = np.lexsort((spans.start, spans.row, spans.owner))
    owner, row, start, stop = (a[order] for a in (spans.owner, spans.row, spans.start, spans.stop))
    if not len(owner):
        return spans
    new_row = np.concatenate([[True], (owner[1:] != owner[:-1]) | (row[1:] != row[:-1])])
    # Running maximum of stops within a row: lift each row above the one before so that one accumulate serves all.
    lift = np.cumsum(new_row) * (int(stop.max()) - int(start.min()) + 2)
    reach = np.maximum.accumulate(stop + lift)
    begins = new_row | np.concatenate([[True], (start + lift)[1:] > reach[:-1]])
    first = np.flatnonzero(begins)
    last = np.concatenate([first[1:], [len(owner)]]) - 1
    return Spans(owner=owner[first], row=row[first], start=start[first], stop=reach[last] - lift[last])


def subtract(spans: Spans, holes: Spans) -> Spans:
    """Pixels of each mask of `spans` that the mask of the same owner in `holes` does not cover."""
    if not len(spans) or not len(holes):
        return spans
    holes = normalise(holes)
    low = int(min(spans.start.min(), holes.start.min()))
    width = int(max(spans.stop.max(), holes.stop.max())) - low + 1
    top = int(min(spans.row.min(), holes.row.min()))
    rows = int(max(spans.row.max(), holes.row.max())) - top + 1

    def line(s: Spans) -> IntArray:
        return (s.owner * rows + (s.row - top)) * width - low

    # Sweep: +1 where a mask starts, -1 where it stops, and the reverse for holes; pixels stay where the sum is 1.
    at = np.concatenate(
        [line(spans) + spans.start, line(spans) + spans.stop, line(holes) + holes.start, line(holes) + holes.stop]
    )
    step = np.repeat([1, -1, -2, 2], [len(spans), len(spans), len(holes), len(holes)])
    order = np.argsort(at, kind="stable")
    at, level = at[order], np.cumsum(step[order])
    keep = (level[:-1] == 1) & (at[1:] > at[:-1])
    start, stop = at[:-1][keep], at[1:][keep]
    lines, left = np.divmod(start, width)
    owner, row = np.divmod(lines, rows)
    return normalise(Spans(owner=owner, row=row + top, start=left + low, stop=left + low + (stop - start)))


def overlaps(a: Spans, b: Spans) -> tuple[IntArray, IntArray, IntArray]:
    """Every pair of masks that share pixels: `(owner in a, owner in b, shared pixels)`, sorted, each pair once.

    Masks of one side may overlap each other; the spans need no order.
    """
    none = np.zeros(0, np.int64)
    if not len(a) or not len(b):
        return none, none, none
    left = int(min(a.start.min(), b.start.min()))
    width = int(max(a.stop.max(), b.stop.max())) - left + 1
    i, j = meetings(a.row * width + a.start - left, a.stop - a.start, b.row * width + b.start - left, b.stop - b.start)
    shared = np.minimum(a.stop[i], b.stop[j]) - np.maximum(a.start[i], b.start[j])
    base = int(b.owner.max()) + 1
    pair, inverse = np.unique(a.owner[i] * base + b.owner[j], return_inverse=True)
    total = np.bincount(inverse, weights=shared).astype(np.int64) if len(pair) else none
    return pair // base, pair % base, total


def meetings(a_start: IntArray, a_length: IntArray, b_start: IntArray, b_length: IntArray) -> tuple[IntArray, IntArray]:
    """Every pair (i, j) of intervals on one line with a shared point, each once.

    Two intervals meet exactly when one of them starts inside the other, so two sorted look-ups find all pairs without
    any demand on either side's own overlaps.
    """
    i, j = _starts_inside(a_start, a_start + a_length, b_start, closed=True)
    j2, i2 = _starts_inside(b_start, b_start + b_length, a_start, closed=False)
    return np.concatenate([i, i2]), np.concatenate([j, j2])


def ragged_ranges(first: IntArray, count: IntArray) -> tuple[IntArray, IntArray]:
    """Indices `first[k] ... first[k] + count[k] - 1` for all k in a row, and the k of each."""
    k = np.repeat(np.arange(len(first)), count)
    return np.arange(len(k)) + np.repeat(first - (np.cumsum(count) - count), count), k


def _starts_inside(start: IntArray, stop: IntArray, points: IntArray, *, closed: bool) -> tuple[IntArray, IntArray]:
    """Indices (interval, point) with `start <= point < stop` (`start <` when not closed)."""
    order = np.argsort(points, kind="stable")
    ranked = points[order]
    low = np.searchsorted(ranked, start, side="left" if closed else "right")
    counts = np.maximum(np.searchsorted(ranked, stop, side="left") - low, 0)
    at, interval = ragged_ranges(low, counts)
    return interval, order[at]
