"""What the U-Net learns of a labelled crop: class, seed and offset of every pixel, and how much each pixel counts.

Seed is the distance to the object's boundary over the greatest in the object; offsets lead to the object's centroid,
rows then columns, in units of `OFFSET_UNIT` px. Pixels of small objects count more, so that every object counts
alike: a pixel's weight falls with the square root of its object's area. The ground around an object weighs as much as the
object does: were it lighter, small objects would be learnt too large, and were it heavier, large ones too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.models.unet_fields import OFFSET_UNIT

_TYPICAL_AREA = 300.0
_HEAVIEST, _LIGHTEST = 3.0, 0.4
_GROUND_PX = (3.0, 9.0)
"""Ground nearer than the first weighs as the nearest object, farther than the second 1, in between in proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Arrays of one crop, all `(h, w)` or `(2, h, w)`."""

    classes: NDArray[np.int64]
    """0 background, else 1 + class."""
    seed: NDArray[np.float32]
    """0 outside objects, up to 1 at the place farthest from the boundary."""
    offset: NDArray[np.float32]
    """`(2, h, w)` to the centroid, in units of `OFFSET_UNIT` px; 0 outside objects."""
    weight: NDArray[np.float32]
    """0 where nothing is known."""


def unet_targets(labels: NDArray[np.int32], classes: NDArray[np.int32], valid: NDArray[np.bool_]) -> Targets:
    """Targets of one crop.

    Args:
        labels: `(h, w)`, 0 background, ids 1 to k.
        classes: `(k,)` class of each id, 0-based.
        valid: `(h, w)`, False where nothing is known.
    """
    count = len(classes)
    inside = labels > 0
    row, col = np.nonzero(inside)
    owner = labels[row, col]
    area = np.maximum(np.bincount(owner, minlength=count + 1), 1).astype(np.float32)
    offset = np.zeros((2, *labels.shape), np.float32)
    for axis, place in enumerate((row, col)):
        centre = np.bincount(owner, weights=place, minlength=count + 1) / area
        offset[axis, row, col] = (centre[owner] - place) / OFFSET_UNIT
    weight = np.ones(labels.shape, np.float32)
    weight[row, col] = np.clip(np.sqrt(_TYPICAL_AREA / area[owner]), _LIGHTEST, _HEAVIEST)
    if count:
        weight = _with_ground(weight, labels)
    weight[_close_calls(labels)] *= 2.0
    weight *= valid
    lookup = np.concatenate([[0], np.asarray(classes, np.int64) + 1])
    return Targets(classes=lookup[labels], seed=_seed(labels, count), offset=offset, weight=weight)


def _with_ground(weight: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Weights of objects, and of the ground around them by its distance to the nearest."""
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    near, far = _GROUND_PX
    share = np.clip((far - distance) / (far - near), 0, 1).astype(np.float32)
    return np.asarray(1 + (weight[tuple(nearest)] - 1) * share, np.float32)


def _seed(labels: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Distance to the nearest pixel of something else, over the greatest in the object."""
    inner = labels > 0
    padded = np.pad(labels, 1, mode="edge")
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= padded[row : row + labels.shape[0], col : col + labels.shape[1]] == labels
    distance = np.where(labels > 0, ndimage.distance_transform_edt(inner) + 0.5, 0.0).astype(np.float32)
    top = np.ones(count + 1, np.float32)
    if count:
        top[1:] = np.maximum(ndimage.maximum(distance, labels, np.arange(1, count + 1)), 1e-6)
    return np.asarray(distance / top[labels], np.float32)


def _close_calls(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels within 1 px of two different objects: where neighbours are told apart."""
    largest = ndimage.maximum_filter(labels, 3)
    filled = np.where(labels > 0, labels, np.iinfo(np.int32).max)
    smallest = ndimage.minimum_filter(filled, 3)
    close: NDArray[np.bool_] = (largest > 0) & (smallest < largest)
    return close
