"""Masks of regions of interest, pasted into their own boxes and run-length encoded; no full-tile mask ever exists.

Resampling is torchvision's (`expand_boxes`, one ring of zeros, bilinear to whole pixels), so every mask is the one
that `paste_masks_in_image` and a threshold give.

1. `_placed` turns boxes into whole-pixel rectangles, as torchvision does.
2. `_paste` resamples one mask and cuts it at the tile's edges.
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

from seggeo.rle import Spans, concat_spans

BUFFER_PIXELS = 1 << 22


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
    padded = F.pad(masks, (1, 1, 1, 1))
    rectangles = _placed(boxes, (side + 2) / side)
    parts: list[Spans] = []
    rows = _Rows()
    for owner, (mask, rectangle) in enumerate(zip(padded, rectangles, strict=True)):
        pasted, top, left = _paste(mask, rectangle, shape, threshold)
        if rows.pixels + pasted.size > BUFFER_PIXELS:
            parts.append(rows.spans())
            rows = _Rows()
        if pasted.size:
            rows.add(pasted, owner, top, left)
    return concat_spans([*parts, rows.spans()])


def _placed(boxes: Tensor, scale: float) -> list[tuple[int, int, int, int]]:
    """Whole-pixel `(x, y, last x, last y)` of boxes grown by the ring of zeros, truncated towards 0."""
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in expand_boxes(boxes, scale).to(torch.int64).tolist()]


def _paste(
    mask: Tensor, rectangle: tuple[int, int, int, int], shape: tuple[int, int], threshold: float
) -> tuple[NDArray[np.bool_], int, int]:
    """One mask on the pixels of its rectangle that lie in the tile, and the row and column of its first pixel."""
    x0, y0, x1, y1 = rectangle
    size = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    pixels = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    top, left = max(y0, 0), max(x0, 0)
    inside = pixels[top - y0 : max(min(y1 + 1, shape[0]) - y0, 0), left - x0 : max(min(x1 + 1, shape[1]) - x0, 0)]
    return (inside >= threshold).numpy(), top, left


class _Rows:
    """Pasted masks in one flat array, each row followed by a pixel of background so that no run crosses rows."""

    def __init__(self) -> None:
        self.pixels = 0
        self._rows: list[NDArray[np.bool_]] = [np.zeros(1, bool)]
        self._heads: list[tuple[int, int, int, int, int]] = []
        self._end = 1

    def add(self, mask: NDArray[np.bool_], owner: int, top: int, left: int) -> None:
        """Append one mask `(h, w)` whose first pixel is at `(top, left)`."""
        height, width = mask.shape
        framed = np.zeros((height, width + 1), bool)
        framed[:, :width] = mask
        self._rows.append(framed.ravel())
        self._heads.append((self._end, width + 1, owner, top, left))
        self._end += framed.size
        self.pixels += mask.size

    def spans(self) -> Spans:
        """Row intervals of all masks added."""
        flat = np.concatenate(self._rows)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        begin, stride, owner, top, left = np.array(self._heads, np.int64).reshape(-1, 5).T
        start, stop = edges[0::2], edges[1::2]
        which = np.searchsorted(begin, start, side="right") - 1
        row, col = np.divmod(start - begin[which], stride[which])
        col = col + left[which]
        return Spans(owner=owner[which], row=row + top[which], start=col, stop=col + (stop - start))
