"""From low-resolution logits to row intervals and stability, mask by mask: the way of the CPU.

`sam_crops` does the same for many masks at once, with few waits for the device, and is tested to give the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seggeo import rle
from seggeo.models.sam_upsample import FloatArray, Upsampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Which masks survive; names and defaults of the stock generator."""

    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    mask_threshold: float = 0.0
    """Logit above which a pixel belongs to a mask."""

    @property
    def reach(self) -> float:
        """Logit above which a pixel counts for the stability of a mask."""
        return self.mask_threshold - self.stability_score_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Masks that are stable enough."""

    which: NDArray[np.int64]
    """Their positions among the given ones, `(k,)`, ascending."""
    stability: FloatArray
    """IoU of each at a higher and a lower threshold, `(k,)`."""
    spans: rle.Spans
    """In image pixels; the owner is a position among the `k`."""


def one_by_one(logits: Tensor, view: Upsampling, thresholds: Thresholds) -> Measured:
    """The masks that are stable enough, each brought to image pixels by itself.

    Args:
        logits: `(m, side, side)`, float32, on the CPU.
        view: The way to image pixels.
        thresholds: Threshold, offset and least stability.
    """
    reach: NDArray[np.bool_] = (logits > thresholds.reach).numpy()
    rows, cols = np.any(reach, axis=2), np.any(reach, axis=1)
    which: list[int] = []
    stability: list[np.float32] = []
    spans: list[rle.Spans] = []
    for i in np.flatnonzero(rows.any(1)):  # a mask without any such cell has no pixel
        (top, bottom), (left, right) = _extent(rows[i]), _extent(cols[i])
        values, row, col = view.region(logits[i], (top, left, bottom, right))
        found = measure(values, (row, col), thresholds)
        if found is not None:
            spans.append(rle.Spans(owner=found[0].owner + len(which), **_places(found[0])))
            stability.append(found[1])
            which.append(int(i))
    return Measured(
        which=np.array(which, np.int64), stability=np.array(stability, np.float32), spans=rle.concat_spans(spans)
    )  # fmt: skip


def _places(spans: rle.Spans) -> dict[str, NDArray[np.int64]]:
    return {"row": spans.row, "start": spans.start, "stop": spans.stop}


def _extent(line: NDArray[np.bool_]) -> tuple[int, int]:
    return int(line.argmax()), len(line) - int(line[::-1].argmax())


def measure(values: FloatArray, origin: tuple[int, int], thresholds: Thresholds) -> tuple[rle.Spans, np.float32] | None:
    """Row intervals and stability of one mask, or None when it is empty or not stable enough.

    Args:
        values: Logits `(h, w)` of the part of the image where the mask can be.
        origin: Row and column of its first pixel.
        thresholds: Threshold, offset and least stability.
    """
    level, offset = thresholds.mask_threshold, thresholds.stability_score_offset
    union = np.count_nonzero(values > thresholds.reach)
    if not union:
        return None
    stability = np.float32(np.count_nonzero(values > level + offset)) / np.float32(union)
    if thresholds.stability_score_thresh > 0 and not stability >= np.float32(thresholds.stability_score_thresh):
        return None
    spans = mask_spans(values > level, origin)
    return (spans, stability) if len(spans) else None


def mask_spans(mask: NDArray[np.bool_], origin: tuple[int, int]) -> rle.Spans:
    """Row intervals of one boolean mask `(h, w)` whose first pixel lies at `origin`; the owner is 0."""
    height, width = mask.shape
    lines = np.zeros((height, width + 2), np.int8)  # a background column on both sides: no run crosses rows
    lines[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(lines.ravel()))
    row, start = np.divmod(edges[::2], width + 2)
    return rle.Spans(
        owner=np.zeros(len(row), np.int64), row=row + origin[0], start=start + origin[1],
        stop=start + origin[1] + edges[1::2] - edges[::2],
    )  # fmt: skip
