"""One window of a labelled scene as training sees it, and how its objects are painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.rle import Spans, ragged_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Pixels and objects of one window; arrays of its own, free to be changed."""

    image: NDArray[Any]
    """`(h, w, c)` uint8 after the scene's stretch, or the file's own dtype when raw values were asked for; 0 where there
    is no pixel."""
    labels: NDArray[np.int32]
    """`(h, w)`, 0 background, 1 to k objects; the smaller of two objects lies on top."""
    classes: NDArray[np.int32]
    """`(k,)` class index of object 1 to k."""
    whole: NDArray[np.bool_]
    """`(k,)`, True when neither the window nor an edge of the scene's areas cuts the object."""
    visible: NDArray[np.float32]
    """`(k,)` share of the object's pixels that lie in the window, 0 to 1; 1 may still be hidden under smaller ones."""
    index: NDArray[np.int64]
    """`(k,)` position of each object in the scene's instances."""
    valid: NDArray[np.bool_]
    """`(h, w)`, False where nothing may be learnt: nodata, outside the image, its areas or the area of interest, or crowd."""

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """The objects of one window."""

    labels: NDArray[np.int32]
    """`(h, w)`, 0 background, 1 to k."""
    index: NDArray[np.int64]
    """`(k,)` position of each object in the batch that was painted."""
    visible: NDArray[np.float32]
    """`(k,)` share of each object's pixels inside the window."""


def paint(instances: Instances, box: tuple[int, int, int, int]) -> Painted:
    """The objects of half-open bounds `(row, col, row_stop, col_stop)`, larger ones first.

    Objects without a pixel inside, or wholly under smaller ones, are left out, so that every id from 1 to k occurs.
    """
    row, col, row_stop, col_stop = box
    near = np.flatnonzero(_meets(instances.box, box))
    picked = instances.take(near)
    area = picked.area
    spans = picked.spans().clip(row, col, row_stop, col_stop)
    inside = spans.areas(len(near))
    kept = np.flatnonzero(inside)
    number = np.zeros(len(near), np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    spans = spans.take(np.argsort(-area[spans.owner], kind="stable"))
    labels, alone = _drawn((row_stop - row, col_stop - col), spans, number[spans.owner], (row, col))
    if not np.isin(kept, spans.owner[alone]).all():  # some may be hidden
        seen = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(kept) + 1)[1:])
        rank = np.zeros(len(kept) + 1, np.int32)
        rank[seen + 1] = np.arange(1, len(seen) + 1)
        labels, kept = rank[labels], kept[seen]
    return Painted(labels=labels, index=near[kept], visible=(inside[kept] / area[kept]).astype(np.float32))


def paint_mask(mask: NDArray[np.bool_], spans: Spans, origin: tuple[int, int], *, value: bool) -> None:
    """Set the pixels of all spans in an array whose first pixel is `origin`; spans may reach beyond it."""
    row, col = origin
    _fill(mask, spans.clip(row, col, row + mask.shape[0], col + mask.shape[1]), np.bool_(value), origin)


def _meets(box: NDArray[np.int32], bounds: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    row, col, row_stop, col_stop = bounds
    found: NDArray[np.bool_] = (
        (box[:, 0] < row_stop) & (box[:, 2] > row) & (box[:, 1] < col_stop) & (box[:, 3] > col)
    )  # fmt: skip
    return found


def _fill(image: NDArray[Any], spans: Spans, values: Any, origin: tuple[int, int]) -> None:
    """Write spans in their order: of two that share a pixel, the later one stays."""
    first = (spans.row - origin[0]) * image.shape[1] + spans.start - origin[1]
    at, which = ragged_ranges(first, spans.stop - spans.start)
    image.reshape(-1)[at] = values if np.ndim(values) == 0 else np.asarray(values)[which]


def _drawn(
    shape: tuple[int, int], spans: Spans, values: NDArray[np.int64], origin: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """An image of zeros with `_fill` done, and which spans share no pixel: those are laid out in one go, ten times faster."""
    first = (spans.row - origin[0]) * shape[1] + spans.start - origin[1]
    order = np.argsort(first, kind="stable")
    start, stop = first[order], first[order] + (spans.stop - spans.start)[order]
    clash = np.zeros(len(order), np.bool_)
    clash[1:] = start[1:] < np.maximum.accumulate(stop)[:-1]
    clash[:-1] |= start[1:] < stop[:-1]
    alone = order[~clash]
    bounds = np.zeros(2 * len(alone) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = start[~clash], stop[~clash], shape[0] * shape[1]
    ids = np.zeros(len(bounds) - 1, np.int32)
    ids[1::2] = values[alone]
    labels = np.repeat(ids, np.diff(bounds)).reshape(shape)
    rest = np.sort(order[clash])
    _fill(labels, spans.take(rest), values[rest], origin)
    return labels, alone
