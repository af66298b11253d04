"""Small islands and holes of masks removed, as the stock generator's `min_mask_region_area` does, inside each mask's box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.instances import Instances
from seggeo.models.sam_masks import nms

EIGHT = np.ones((3, 3), bool)


def clean_regions(masks: Instances, min_area: int, box_nms_thresh: float, shape: tuple[int, int]) -> Instances:
    """Masks without holes and islands below `min_area` px; masks that became duplicates go, changed ones first.

    Args:
        masks: Masks of one image.
        min_area: Smallest region that stays, px; the largest island always stays.
        box_nms_thresh: Box IoU above which two masks are duplicates.
        shape: Height and width of the image.
    """
    if min_area <= 0 or not len(masks):
        return masks
    cleaned, origins, changed = [], [], []
    for box, mask in masks:
        margin = _margins(box, shape, min_area)
        padded = np.pad(mask, ((margin[0], margin[2]), (margin[1], margin[3])))
        filled, holes = _fill_holes(padded, _outside(box, margin, shape), min_area)
        kept, islands = _drop_islands(filled, min_area)
        cleaned.append(kept)
        origins.append((box[0] - margin[0], box[1] - margin[1]))
        changed.append(holes or islands)
    result = Instances.from_masks(cleaned, score=masks.score, label=masks.label, origin=origins)
    return result.take(np.sort(nms(result.box, 1.0 - np.array(changed, np.float32), box_nms_thresh)))


Margin = tuple[int, int, int, int]


def _margins(box: NDArray[np.int32], shape: tuple[int, int], min_area: int) -> Margin:
    """Background around a mask's box, px above, left of, below and right of it.

    One on each side that is not the image's own edge, so that what lies beyond hangs together; up to the edge where less than
    `min_area` lies beyond, which may be a hole of its own.
    """
    row, col, row_stop, col_stop = (int(v) for v in box)

    def margin(beyond: int, length: int) -> int:
        return beyond if (beyond - 1) * length < min_area else 1

    top, bottom = margin(row, shape[1]), margin(shape[0] - row_stop, shape[1])
    height = row_stop - row + top + bottom
    return top, margin(col, height), bottom, margin(shape[1] - col_stop, height)


def _outside(box: NDArray[np.int32], margin: Margin, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels of the image above, left of, below and right of a padded mask, each counted once."""
    top, left = int(box[0]) - margin[0], int(box[1]) - margin[1]
    bottom, right = int(box[2]) + margin[2], int(box[3]) + margin[3]
    height = bottom - top
    return top * shape[1], left * height, (shape[0] - bottom) * shape[1], (shape[1] - right) * height


def _fill_holes(mask: NDArray[np.bool_], outside: tuple[int, int, int, int], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    regions, count = ndimage.label(~mask, EIGHT)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    # The background beyond the padding belongs to the region that touches it there.
    for side, pixels in zip((regions[0], regions[:, 0], regions[-1], regions[:, -1]), outside, strict=True):
        if pixels:
            sizes[side[side > 0][0]] += pixels
    small = sizes < min_area
    small[0] = False
    return mask | small[regions], bool(small.any())


def _drop_islands(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    regions, count = ndimage.label(mask, EIGHT)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    small = sizes < min_area
    if not small[1:].any():
        return mask, False
    if small.all():
        small[int(sizes.argmax())] = False
    small[0] = True
    return ~small[regions], True
