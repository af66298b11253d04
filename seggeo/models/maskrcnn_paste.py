"""Masks of regions of interest, pasted into their own boxes and run-length encoded; no full-tile mask ever exists.

Resampling is torchvision's (`expand_boxes`, one ring of zeros, bilinear to whole pixels), so every mask is the one
that `paste_masks_in_image` and a threshold give.

1. `_placed` turns boxes into whole-pixel rectangles, as torchvision does.
2. `paste_spans` resamples one mask after the other and cuts it at the tile's edges.
3. `_Rows` collects the pasted masks of some megapixels one after the other, a column of background after each row,
   and reads the row intervals of all of them at once.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes

from seggeo.geometry import Window
from seggeo.instances import Instances, replace_owner
from seggeo.models.maskrcnn_regions import Detections
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.rle import Spans, concat_spans

BUFFER_PIXELS = 1 << 20


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
    side = masks.shape[-1] if len(masks) else 1
    padded = F.pad(masks, (1, 1, 1, 1))[:, None, None]
    parts: list[Spans] = []
    rows = _Rows()
    for owner, (mask, (x0, y0, x1, y1)) in enumerate(zip(padded, _placed(boxes, (side + 2) / side).tolist(), strict=True)):
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1 + 1, shape[0]), min(x1 + 1, shape[1])
        if top >= bottom or left >= right:
            continue
        pixels = F.interpolate(mask, size=(y1 - y0 + 1, x1 - x0 + 1), mode="bilinear", align_corners=False).numpy()[0, 0]
        if rows.pixels + (bottom - top) * (right - left) > BUFFER_PIXELS:
            parts.append(rows.spans())
            rows = _Rows()
        rows.add(pixels[top - y0 : bottom - y0, left - x0 : right - x0], threshold, (owner, top, left))
    return concat_spans([*parts, rows.spans()])


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


class _Rows:
    """Pasted masks in one flat array, each row followed by a pixel of background so that no run crosses rows."""

    def __init__(self) -> None:
        self.pixels = 0
        self._rows: list[NDArray[np.bool_]] = [np.zeros(1, bool)]
        self._heads: list[tuple[int, int, int, int, int]] = []
        self._end = 1

    def add(self, pixels: NDArray[np.float32], threshold: float, head: tuple[int, int, int]) -> None:
        """Append the mask of pixels `(h, w)` at `threshold` or above; `head`: its owner, row and column of its first pixel."""
        height, width = pixels.shape
        framed = np.empty((height, width + 1), bool)
        np.greater_equal(pixels, np.float32(threshold), out=framed[:, :width])
        framed[:, width] = False
        self._rows.append(framed.ravel())
        self._heads.append((self._end, width + 1, *head))
        self._end += framed.size
        self.pixels += pixels.size

    def spans(self) -> Spans:
        """Row intervals of all masks added."""
        flat = np.concatenate(self._rows)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        begin, stride, owner, top, left = np.array(self._heads, np.int64).reshape(-1, 5).T
        start, stop = edges[0::2], edges[1::2]
        which = np.repeat(np.arange(len(begin)), np.diff(np.searchsorted(start, begin), append=len(start)))
        row, col = np.divmod(start - begin[which], stride[which])
        col = col + left[which]
        return Spans(owner=owner[which], row=row + top[which], start=col, stop=col + (stop - start))
