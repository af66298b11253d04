"""One image and its point prompts to masks, as segment-anything's automatic mask generator finds them, with less work.

1. `encode`: the image resized and padded as `SamPredictor` does, through the encoder once.
2. `decode`: the stock decoder modules on a batch of points. What is equal for all points (the image side of the first
   layer) is computed once, and the upscaling head runs only for points with a mask above the predicted-IoU threshold.
3. `Upsampling.region`: each such mask is brought to tile pixels only where it can be foreground.
4. `measure`: stability score, threshold, tight box and row intervals inside that region.
5. `suppress`: non-maximum suppression of boxes over all points of the image.

The masks, scores and stability are those of `SamAutomaticMaskGenerator(crop_n_layers=0)`; no array of the size of the
tile is made per mask unless the mask is that large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torchvision.ops.boxes import batched_nms

from seggeo import rle
from seggeo.errors import ConfigError
from seggeo.instances import Instances, concat
from seggeo.models.device import in_batches
from seggeo.models.sam_decode import Decoded, decode, encode
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Masks of one image."""

    instances: Instances
    """In image pixels, ordered by falling score; the score is the predicted IoU."""
    stability: FloatArray
    """IoU of each mask at a higher and a lower threshold, `(n,)`."""
    point: NDArray[np.int64]
    """Which of the given points each mask answers, `(n,)`."""

    def take(self, which: NDArray[np.int64]) -> Found:
        """The picked masks, in that order."""
        return Found(instances=self.instances.take(which), stability=self.stability[which], point=self.point[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How the arithmetic is done, not what it finds."""

    points_per_batch: int = 64
    autocast: bool = False
    """bfloat16 in the image encoder; the decoder stays in float32, where rounding would move outlines."""


def generate(sam: Sam, image: NDArray[np.uint8], points_xy: NDArray[np.float64], thresholds: Thresholds) -> Instances:
    """Masks of one image for explicit points.

    Args:
        sam: A network in eval mode.
        image: RGB `(h, w, 3)`, uint8.
        points_xy: `(n, 2)`, x and y from 0 to 1 of the image's width and height, as `point_grids` of the stock generator.
        thresholds: Which masks survive.

    Returns:
        Instances in image pixels, by falling predicted IoU, which is their score.
    """
    size = np.array(image.shape[1::-1])
    return find_masks(sam, image, np.asarray(points_xy, np.float64) * size, thresholds, Work()).instances


@torch.inference_mode()
def find_masks(sam: Sam, image: NDArray[np.uint8], points: NDArray[np.float64], thresholds: Thresholds, work: Work) -> Found:
    """Masks of one image with their stability and points.

    Args:
        sam: A network in eval mode.
        image: RGB `(h, w, 3)`, uint8.
        points: `(n, 2)`, x and y in image pixels; without points the network does not run.
        thresholds: Which masks survive.
        work: Batch size and precision.

    Raises:
        ConfigError: The image is not RGB uint8.
        ResourceError: Not even one point fits the accelerator's memory.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigError(
            what=f"an image of shape {image.shape} and type {image.dtype} for sam",
            why="it takes stretched RGB of shape (height, width, 3), uint8",
            mend="use --bands 1,2,3 (repeat one band for a grey image) and a stretch other than none",
        )
    if not len(points):
        return _join([])
    view = Upsampling.of(image.shape[0], image.shape[1], sam)
    embedding = encode(sam, image, view.scaled, autocast=work.autocast)
    prompts = points * view.scale_xy

    def run(batch: Sequence[int]) -> list[list[Found]]:
        decoded = decode(sam, embedding, prompts[np.asarray(batch)], thresholds.pred_iou_thresh)
        return _candidates(decoded, batch, view, thresholds)

    parts = in_batches(run, range(len(prompts)), work.points_per_batch)
    return suppress(_join([found for point in parts for found in point]), thresholds.box_nms_thresh)


def _candidates(decoded: Decoded, points: Sequence[int], view: Upsampling, thresholds: Thresholds) -> list[list[Found]]:
    """The masks of each point of a batch that are stable enough."""
    answers: list[list[Found]] = [[] for _ in points]
    reach: NDArray[np.bool_] = (decoded.logits > thresholds.mask_threshold - thresholds.stability_score_offset).numpy()
    rows, cols = np.any(reach, axis=2), np.any(reach, axis=1)
    for i in np.flatnonzero(rows.any(1)):  # a mask without any such cell has no pixel
        (top, bottom), (left, right) = _extent(rows[i]), _extent(cols[i])
        values, row, col = view.region(decoded.logits[i], (top, left, bottom, right))
        found = measure(values, (row, col), thresholds)
        if found is not None:
            at = int(decoded.point[i])
            instances = Instances.from_spans(found[0], score=decoded.iou[i : i + 1], label=[0])
            answers[at].append(Found(instances=instances, stability=found[1].reshape(1), point=np.array([points[at]])))
    return answers


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
    union = np.count_nonzero(values > level - offset)
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


def suppress(found: Found, box_nms_thresh: float) -> Found:
    """The masks that box non-maximum suppression keeps, by falling score."""
    return found.take(nms(found.instances.box, found.instances.score, box_nms_thresh))


def nms(box: NDArray[np.int32], score: FloatArray, threshold: float) -> NDArray[np.int64]:
    """Positions kept by the stock generator's suppression.

    Args:
        box: Half-open `(row, col, row_stop, col_stop)`, `(n, 4)`.
        score: `(n,)`.
        threshold: Box IoU above which the lower score goes.
    """
    # The stock boxes end at the last pixel, not one past it; the IoU of small boxes depends on it.
    edges = torch.from_numpy((box - np.array([0, 0, 1, 1])).astype(np.float32))
    kept = batched_nms(edges, torch.from_numpy(np.asarray(score, np.float32)), torch.zeros(len(box)), threshold)
    return np.asarray(kept.numpy(), np.int64)


def _join(parts: list[Found]) -> Found:
    return Found(
        instances=concat([p.instances for p in parts]),
        stability=np.concatenate([p.stability for p in parts]) if parts else np.zeros(0, np.float32),
        point=np.concatenate([p.point for p in parts]) if parts else np.zeros(0, np.int64),
    )
