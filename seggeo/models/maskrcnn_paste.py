"""Masks of regions of interest as row intervals of the tile, without a pixel ever drawn.

Resampling is torchvision's (`expand_boxes`, one ring of zeros, bilinear to whole pixels), so every mask is the one
that `paste_masks_in_image` and a threshold give; only a pixel whose probability is the threshold itself but for
rounding may fall either way. Along a row of pixels, bilinear values are straight between two columns of the small
grid; where they cross the threshold is a division, and nothing else has to be known of the row:

1. `_placed` turns boxes into whole-pixel rectangles, as torchvision does.
2. `_intervals` interpolates the grids' columns for each row of pixels of some masks at once and finds the pairs of
   columns between which the threshold lies.
3. `_first_beyond` names the first pixel after each crossing; where the quotient cannot tell it from the next for
   rounding, `_Crossing` does what torch computes for these pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes

from seggeo.geometry import Window
from seggeo.instances import Instances, replace_owner
from seggeo.models.maskrcnn_regions import Detections
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.rle import IntArray, Spans, concat_spans

BUFFER_ROWS = 1 << 12
"""Rows of pixels, of all masks together, that are worked on at once."""
_ROUNDING = 1e-6
"""Some times that of the float32 values that a quotient is made of."""

FloatArray = NDArray[np.float32]


def to_instances(masks: Tensor, found: Detections, shape: tuple[int, int], settings: DetectorSettings) -> Instances:
    """Instances of one tile; masks of fewer than `settings.min_area` pixels are left out.

    Args:
        masks: As for `paste_spans`.
        found: The detections behind them, on the CPU.
        shape: Height and width of the tile.
        settings: Threshold and least area.
    """
    spans = paste_spans(masks, found.boxes, shape, settings.mask_threshold)
    keep = spans.areas(len(masks)) >= settings.min_area
    if not keep.all():
        spans = spans.take(keep[spans.owner])
        spans = replace_owner(spans, (np.cumsum(keep) - 1)[spans.owner])
    return Instances.from_spans(spans, score=found.scores.numpy()[keep], label=found.labels.numpy()[keep] - 1)


def paste_spans(masks: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float) -> Spans:
    """Row intervals of masks given on the small grids of their boxes.

    Args:
        masks: `(n, m, m)` float32 on the CPU, probability 0 to 1 inside each box.
        boxes: `(n, 4)` float32 on the CPU, `(x, y, x_stop, y_stop)` in tile pixels.
        shape: Height and width of the tile; masks are cut there.
        threshold: A pixel belongs to a mask at this probability or above.

    Returns:
        Sorted by (owner, row, start), owner = position in `masks`; a mask without a pixel has no span.
    """
    side = masks.shape[-1]
    grids = np.pad(masks.numpy(), ((0, 0), (1, 1), (1, 1)))
    left, top, right, bottom = _placed(boxes, (side + 2) / side).numpy().T if len(boxes) else np.zeros((4, 0), np.int64)
    first_row, stop_row = np.maximum(top, 0), np.minimum(bottom + 1, shape[0])
    meets = (first_row < stop_row) & (np.maximum(left, 0) < np.minimum(right + 1, shape[1]))
    rows_of = np.where(meets, stop_row - first_row, 0)
    parts = []
    for some in _in_batches(rows_of):
        count = rows_of[some]
        owner = np.repeat(np.arange(some.start, some.stop), count)
        row = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first_row[owner]
        at = _Steps.of(row - top[owner], (bottom - top + 1)[owner], side + 2)
        line, start, stop = _intervals(grids, owner, at, (right - left + 1)[owner], np.float32(threshold))
        shift = left[owner[line]]
        spans = Spans(owner=owner[line], row=row[line], start=start + shift, stop=stop + shift)
        parts.append(spans.clip(0, 0, *shape))
    return concat_spans(parts)


def can_meet(boxes: Tensor, side: int, within: Window) -> Tensor:
    """Which masks, pasted, may have a pixel in a window: `(n,)` bool; whatever the mask, the others have none.

    Args:
        boxes: As for `paste_spans`.
        side: Of the grids that masks are given on, m.
        within: In tile pixels.
    """
    x, y, last_x, last_y = _placed(boxes, (side + 2) / side).unbind(1)
    row, col, row_stop, col_stop = within.bounds
    meets: Tensor = (y < row_stop) & (last_y >= row) & (x < col_stop) & (last_x >= col)
    return meets


def _placed(boxes: Tensor, scale: float) -> Tensor:
    """Whole-pixel `(x, y, last x, last y)` of boxes grown by the ring of zeros, truncated towards 0: `(n, 4)` int64."""
    whole: Tensor = expand_boxes(boxes, scale).to(torch.int64)
    return whole


def _in_batches(rows_of: IntArray) -> Iterator[slice]:
    """Masks one after the other, `BUFFER_ROWS` rows of pixels or one mask at a time."""
    start, total = 0, 0
    for i, rows in enumerate(rows_of.tolist()):
        if total and total + rows > BUFFER_ROWS:
            yield slice(start, i)
            start, total = i, 0
        total += rows
    if total:
        yield slice(start, len(rows_of))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Where pixels lie among the knots of a grid along one axis, as torch's bilinear resampling places them."""

    low: IntArray
    """The knot at or before each pixel."""
    part: FloatArray
    """The share of the knot after it."""

    @classmethod
    def of(cls, pixel: IntArray, length: IntArray, knots: int) -> _Steps:
        """Pixels 0 to `length` - 1 of a rectangle over which `knots` knots are spread."""
        place = _place(pixel, np.float32(knots) / length.astype(np.float32))
        low = np.minimum(place.astype(np.int64), knots - 2)
        return cls(low=low, part=np.minimum(place - low.astype(np.float32), np.float32(1)))


def _place(pixel: IntArray, scale: FloatArray) -> FloatArray:
    """Of a pixel's centre, in knots from the first."""
    place: FloatArray = np.maximum(scale * (pixel.astype(np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    return place


def _intervals(
    grids: FloatArray, owner: IntArray, at: _Steps, width: IntArray, threshold: np.float32
) -> tuple[IntArray, IntArray, IntArray]:
    """Columns at the threshold or above, for rows of pixels of several masks.

    Args:
        grids: `(masks, knots, knots)`.
        owner: `(rows,)`, the mask of each row of pixels.
        at: Where the rows lie among the grid's.
        width: `(rows,)`, columns of the rectangle.
        threshold: Of probability.

    Returns:
        Row (position in `owner`), start and stop of each interval, sorted, none touching the next.
    """
    knots = grids.shape[1]
    table = grids.reshape(-1, knots)
    above = owner * knots + at.low
    part = at.part[:, None]
    values = table[above] * (1 - part) + table[above + 1] * part
    inside = np.zeros((len(owner), knots + 2), bool)  # a column of background on both sides
    np.greater_equal(values, threshold, out=inside[:, 1:-1])
    row, knot = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), knots + 1)  # the knot after the crossing
    pixel = np.where(knot == 0, 0, width[row])
    between = np.flatnonzero((knot > 0) & (knot < knots))
    pixel[between] = _first_beyond(table, values, (row[between], knot[between] - 1), (above, at.part, width), threshold)
    return _joined(row[0::2], pixel[0::2], pixel[1::2])


def _first_beyond(
    table: FloatArray,
    values: FloatArray,
    where: tuple[IntArray, IntArray],
    rows: tuple[IntArray, FloatArray, IntArray],
    threshold: np.float32,
) -> IntArray:
    """The first pixel past each crossing.

    Args:
        table: `(all lines of all grids, knots)`.
        values: `(rows, knots)`, the grids' columns at rows of pixels.
        where: Row of pixels and knot before each crossing.
        rows: Of each row of pixels the line of `table` at or above it, the share of the next one, and how wide it is.
        threshold: Of probability.
    """
    row, knot = where
    scale = (np.float32(table.shape[1]) / rows[2].astype(np.float32))[row]
    level, rise = values[row, knot], values[row, knot + 1] - values[row, knot]
    place = (knot + (0.5 + (threshold - level) / rise)) / scale - 0.5
    pixel = np.ceil(place).astype(np.int64)
    short = pixel - place
    unsure = 1e-3 + _ROUNDING * (np.abs(place) + 1 / (np.abs(rise) * scale))
    some = np.flatnonzero((short < unsure) | (short > 1 - unsure))
    if len(some):
        row, knot = row[some], knot[some]
        line, pair = rows[0][row][:, None], knot[:, None] + [0, 1]
        crossing = _Crossing(
            upper=table[line, pair], lower=table[line + 1, pair], share_lower=rows[1][row], knot=knot.astype(np.float32),
            scale=scale[some], rises=rise[some] > 0,
        )  # fmt: skip
        pixel[some] = crossing.first_beyond(pixel[some], threshold)
    return pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crossing:
    """Places where a row of pixels crosses the threshold between two columns of its grid; arrays over places."""

    upper: FloatArray
    """`(n, 2)`, the grid's two values at or above the row of pixels."""
    lower: FloatArray
    share_lower: FloatArray
    knot: FloatArray
    """The first of the two columns."""
    scale: FloatArray
    """Columns of the grid to a pixel."""
    rises: NDArray[np.bool_]

    def first_beyond(self, near: IntArray, threshold: np.float32) -> IntArray:
        """The first pixel past each crossing, which is `near` or one beside it."""
        before, at = self._is_beyond(near - 1, threshold), self._is_beyond(near, threshold)
        first: IntArray = np.where(before, near - 1, np.where(at, near, near + 1))
        return first

    def _is_beyond(self, pixel: IntArray, threshold: np.float32) -> NDArray[np.bool_]:
        """Whether a pixel lies past the crossing; in torch's order, along the row first."""
        right = _place(pixel, self.scale) - self.knot
        upper, lower = (pair[:, 0] * (1 - right) + pair[:, 1] * right for pair in (self.upper, self.lower))
        value = upper * (1 - self.share_lower) + lower * self.share_lower
        beyond: NDArray[np.bool_] = (value >= threshold) == self.rises
        return beyond


def _joined(row: IntArray, start: IntArray, stop: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Intervals without the empty ones, and those that touch as one."""
    full = start < stop
    row, start, stop = row[full], start[full], stop[full]
    apart = (row[1:] != row[:-1]) | (start[1:] > stop[:-1])
    first, last = np.concatenate([[True], apart])[: len(row)], np.concatenate([apart, [True]])[: len(row)]
    return row[first], start[first], stop[last]
