"""From low-resolution logits to row intervals and stability, many masks at once: the way of an accelerator.

1. `_extents`: the cells of every mask above the lowest threshold of interest; the device is waited for once.
2. Masks of similar size share a crop's side (32, 64, 128 ... cells), so that one interpolation serves many; `_PIXELS`
   bounds how many. A crop is a window of the logits themselves, so that its values are those of the whole frame.
3. `_in_image`: where the image was resized to fit the network, the second interpolation, by the taps of `sam_upsample`.
4. `_counted`: stability, threshold and the columns where rows change, still on the device.
5. `_spans`: what comes back is one array of integers for each group, and becomes row intervals.

The arithmetic is that of `sam_measure.one_by_one` in the same order. Masks are equal; what libraries round otherwise for
crops of another size can move a stability by a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seggeo import rle
from seggeo.models.sam_measure import Measured, Thresholds
from seggeo.models.sam_upsample import Upsampling, taps

LEAST_SIDE = 32
"""Cells along the side of the smallest crops."""
_PIXELS = 1 << 24
"""Image pixels of the crops in work at once: 64 MB as float32."""
_MARGIN = 2
"""Cells beyond a mask that its crop holds: the nearest is interpolated with, the next takes the crop's own edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Masks whose crops have one size."""

    which: NDArray[np.int64]
    """Their positions among all, `(k,)`."""
    origin: NDArray[np.int64]
    """First row and column of their crops, cells, `(k, 2)`."""
    side: int
    """Cells along a side of a crop."""


def in_crops(logits: Tensor, view: Upsampling, thresholds: Thresholds) -> Measured:
    """The masks that are stable enough, in row intervals of the image.

    Args:
        logits: `(m, side, side)`, float32, on any device.
        view: The way to image pixels.
        thresholds: Threshold, offset and least stability.
    """
    parts = [
        _measured(logits, group, view, thresholds)
        for group in _groups(_extents(logits > thresholds.reach), logits.shape[-1], view.cell)
    ]
    which = np.concatenate([p.which for p in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(which)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    firsts = np.cumsum([0, *(len(p.which) for p in parts)])
    spans = rle.concat_spans([p.spans for p in parts])
    owner = place[np.concatenate([p.spans.owner + first for p, first in zip(parts, firsts, strict=False)])] if parts else order
    by_owner = np.argsort(owner, kind="stable")
    return Measured(
        which=which[order], spans=rle.Spans(owner=owner, row=spans.row, start=spans.start, stop=spans.stop).take(by_owner),
        stability=np.concatenate([p.stability for p in parts])[order] if parts else np.zeros(0, np.float32),
    )  # fmt: skip


def _extents(reach: Tensor) -> NDArray[np.int64]:
    """Half-open `(row, col, row_stop, col_stop)` of the cells of each mask, `(m, 4)`; of masks without any all 0."""
    side = reach.shape[-1]
    lines = torch.stack([reach.any(2), reach.any(1)], 1).to(torch.uint8)  # (m, 2, side)
    first, last = lines.argmax(2), side - lines.flip(2).argmax(2)
    ends = torch.cat([first, last], 1) * lines.any(2)[:, :1]
    return np.asarray(ends.cpu().numpy(), np.int64)


def _groups(extents: NDArray[np.int64], total: int, cell: int) -> Iterator[_Group]:
    """Masks of `total` cells a side by the size of their crops, as many as `_PIXELS` allows; empty ones are in no group."""
    low, high = np.maximum(extents[:, :2] - _MARGIN, 0), np.minimum(extents[:, 2:] + _MARGIN, total)
    longest = np.where(extents[:, 2] > 0, (high - low).max(1), 0)
    side, smaller = min(LEAST_SIDE, total), 0
    while smaller < total:
        which = np.flatnonzero((longest > smaller) & (longest <= side))
        many = max(1, _PIXELS // (side * cell) ** 2)
        for i in range(0, len(which), many):
            some = which[i : i + many]
            yield _Group(which=some, origin=np.minimum(low[some], total - side), side=side)
        side, smaller = min(2 * side, total), side


def _measured(logits: Tensor, group: _Group, view: Upsampling, thresholds: Thresholds) -> Measured:
    device = logits.device
    rows, cols = (_ahead(group.origin[:, axis], group.side, device) for axis in (0, 1))
    index = torch.from_numpy(group.which).to(device)[:, None, None]
    crops = logits[index, rows[:, :, None], cols[:, None, :]]
    fine = F.interpolate(crops[:, None], scale_factor=view.cell, mode="bilinear", align_corners=False)[:, 0]
    origin = group.origin * view.cell
    if view.scaled == view.size:  # the second interpolation would change nothing
        is_inside = [torch.from_numpy(limit - origin[:, axis]).to(device) for axis, limit in enumerate(view.size)]
        values, inside = fine, _within(is_inside, fine)
    else:
        values, inside, origin = _in_image(fine, origin, view)
    return _spans(_counted(values, inside, thresholds), group, origin, (values.shape[1], values.shape[2]))


def _ahead(first: NDArray[np.int64], count: int, device: torch.device) -> Tensor:
    """`(k, count)`: the numbers from each first on."""
    return torch.from_numpy(first).to(device)[:, None] + torch.arange(count, device=device)


def _within(lengths: list[Tensor], like: Tensor) -> Tensor:
    """`(k, h, w)`, True in the first rows and columns, as many as `lengths` says of each."""
    rows, cols = (
        torch.arange(size, device=like.device) < n[:, None] for n, size in zip(lengths, like.shape[1:], strict=True)
    )  # fmt: skip
    return rows[:, :, None] & cols[:, None, :]


def _in_image(fine: Tensor, origin: NDArray[np.int64], view: Upsampling) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Crops of the network's input as crops of the image: values, which of them count, and their first pixels."""
    device = fine.device
    starts: list[NDArray[np.int64]] = []
    lengths: list[Tensor] = []
    for axis, weigh in ((1, _across), (0, _down)):
        own = taps(view.scaled[axis], view.size[axis])
        first, size = origin[:, axis], fine.shape[axis + 1]
        start = np.searchsorted(own.near, first)
        stop = np.maximum(start, np.searchsorted(own.far, np.minimum(first + size, view.scaled[axis])))
        count = max(1, int((stop - start).max()))
        out = np.minimum(start[:, None] + np.arange(count), view.size[axis] - 1)
        near, far = (np.clip(v[out] - first[:, None], 0, size - 1) for v in (own.near, own.far))
        weights = own.near_weight[out], own.far_weight[out]
        fine = weigh(fine, *(torch.from_numpy(v).to(device) for v in (near, far, *weights)))
        starts.insert(0, start)
        lengths.insert(0, torch.from_numpy(stop - start).to(device))
    return fine, _within(lengths, fine), np.stack(starts, 1)


def _across(fine: Tensor, near: Tensor, far: Tensor, near_weight: Tensor, far_weight: Tensor) -> Tensor:
    height = fine.shape[1]
    low, high = (fine.gather(2, v[:, None, :].expand(-1, height, -1)) for v in (near, far))
    return low * near_weight[:, None, :] + high * far_weight[:, None, :]


def _down(fine: Tensor, near: Tensor, far: Tensor, near_weight: Tensor, far_weight: Tensor) -> Tensor:
    width = fine.shape[2]
    low, high = (fine.gather(1, v[:, :, None].expand(-1, -1, width)) for v in (near, far))
    return low * near_weight[:, :, None] + high * far_weight[:, :, None]


def _counted(values: Tensor, inside: Tensor, thresholds: Thresholds) -> NDArray[np.int64]:
    """Pixels above the lower and the higher threshold, `2 k` numbers, then where the rows of stable masks change."""
    level, offset = thresholds.mask_threshold, thresholds.stability_score_offset
    union = ((values > thresholds.reach) & inside).sum((1, 2))
    core = ((values > level + offset) & inside).sum((1, 2))
    keep = union > 0
    if thresholds.stability_score_thresh > 0:
        keep &= core.float() / union.float() >= thresholds.stability_score_thresh
    mask = (values > level) & inside & keep[:, None, None]
    lines = F.pad(mask.to(torch.int8), (1, 1)).flatten()  # background on both sides: no run crosses rows
    edges = lines.diff().nonzero()[:, 0]
    return np.asarray(torch.cat([union, core, edges]).cpu().numpy(), np.int64)


def _spans(counted: NDArray[np.int64], group: _Group, origin: NDArray[np.int64], shape: tuple[int, int]) -> Measured:
    """What `_counted` found in crops of a shape (rows, columns), in image pixels."""
    count, (height, width) = len(group.which), shape
    union, core, edges = np.split(counted, [count, 2 * count])
    line, start = np.divmod(edges[::2], width + 2)
    crop, row = np.divmod(line, height)
    kept, owner = np.unique(crop, return_inverse=True)
    start = start + origin[crop, 1]
    return Measured(
        which=group.which[kept], stability=core[kept].astype(np.float32) / union[kept].astype(np.float32),
        spans=rle.Spans(
            owner=owner.astype(np.int64), row=row + origin[crop, 0], start=start, stop=start + edges[1::2] - edges[::2]
        ),
    )  # fmt: skip
