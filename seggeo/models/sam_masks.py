"""One image and its point prompts to masks, as segment-anything's automatic mask generator finds them, with less work.

1. `encode`: the image resized and padded as `SamPredictor` does, through the encoder once.
2. `SamNetwork.decode`: a batch of points; logits of the masks above the predicted-IoU threshold.
3. `one_by_one` on the CPU, `in_crops` on an accelerator: each such mask is brought to tile pixels only where it can be
   foreground; there its stability score, threshold and row intervals.
4. `suppress`: non-maximum suppression of boxes over all points of the image.

The masks, scores and stability are those of `SamAutomaticMaskGenerator(crop_n_layers=0)`; no array of the size of the
tile is made per mask unless the mask is that large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torchvision.ops.boxes import batched_nms

from seggeo.errors import ConfigError
from seggeo.instances import Instances, concat
from seggeo.models.device import in_batches
from seggeo.models.sam_crops import in_crops
from seggeo.models.sam_decode import Decoded, LeanSam, SamNetwork, encode
from seggeo.models.sam_measure import Thresholds, one_by_one
from seggeo.models.sam_upsample import FloatArray, Upsampling
from seggeo.profiling import span

__all__ = ["Found", "Thresholds", "Work", "find_masks", "generate", "nms", "suppress"]


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
    crops: Literal["auto", "together", "alone"] = "auto"
    """How masks come to image pixels: many of one size together, each alone, or as the device likes it."""


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
    return find_masks(LeanSam(sam), image, np.asarray(points_xy, np.float64) * size, thresholds, Work()).instances


@torch.inference_mode()
def find_masks(
    network: SamNetwork, image: NDArray[np.uint8], points: NDArray[np.float64], thresholds: Thresholds, work: Work
) -> Found:  # fmt: skip
    """Masks of one image with their stability and points.

    Args:
        network: From `sam_decode.open_network`.
        image: RGB `(h, w, 3)`, uint8.
        points: `(n, 2)`, x and y in image pixels; without points the network does not run.
        thresholds: Which masks survive.
        work: Batch size and precision.

    Raises:
        ConfigError: The image is not RGB uint8.
        ModelError: The network gave NaN or infinite values.
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
    view = Upsampling.of(image.shape[0], image.shape[1], network.sam)
    shared = network.share(encode(network, image, view.scaled, autocast=work.autocast))
    prompts = points * view.scale_xy

    def run(batch: Sequence[int]) -> list[Found | None]:
        decoded = network.decode(shared, prompts[np.asarray(batch)], thresholds.pred_iou_thresh)
        with span("encode"):
            found = _candidates(decoded, batch, view, work, thresholds)
        return [found, *([None] * (len(batch) - 1))]  # what all points of the batch gave stands with its first

    parts = in_batches(run, range(len(prompts)), work.points_per_batch)
    return suppress(_join([part for part in parts if part is not None]), thresholds.box_nms_thresh)


def _candidates(decoded: Decoded, points: Sequence[int], view: Upsampling, work: Work, thresholds: Thresholds) -> Found:
    """The masks of a batch of points that are stable enough, in the order of the points."""
    if work.crops == "together" or (work.crops == "auto" and decoded.logits.device.type != "cpu"):
        found = in_crops(decoded.logits, view, thresholds)
    else:
        found = one_by_one(decoded.logits.cpu(), view, thresholds)
    instances = Instances.from_spans(found.spans, score=decoded.iou[found.which], label=0)
    point = np.asarray(points)[decoded.point[found.which]]
    return Found(instances=instances, stability=found.stability, point=np.asarray(point, np.int64))


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
