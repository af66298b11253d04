"""What a Mask R-CNN learns of a labelled crop: boxes, classes and masks of its objects, and where nothing may be learnt.

Masks stay one image of ids, from which the loss cuts the few that it needs; a plane for each object would be 52 MB for 200
objects of a crop of 256 px. Objects that are not learnt (most of them unknown, slivers at the crop's edge, more than a crop
may hold) are neither objects nor background: their pixels join those that are not valid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_OBJECTS = 200
"""Objects of one crop that are learnt; of more, some are drawn."""
_KNOWN = 0.5
"""Least share of an object's pixels that must be valid."""
_SLIVER = 4
"""An object cut by the crop's edge counts from this many px of width and height on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The objects of one crop."""

    boxes: Tensor
    """`(n, 4)` float32: left, top, right, bottom, px, the last two exclusive."""
    labels: Tensor
    """`(n,)` int64 class of each, from 1."""
    ids: Tensor
    """`(n,)` int32 value of each in `objects`."""
    objects: Tensor
    """`(h, w)` int32, 0 where there is none."""
    ignored: Tensor
    """`(h, w)` bool, True where nothing may be learnt."""

    def to(self, device: torch.device) -> Target:
        """The same on a device."""
        return Target(**{name: getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__})


def detector_target(labels: NDArray[np.int32], classes: NDArray[np.int32], valid: NDArray[np.bool_]) -> Target:
    """The target of one crop; the same arrays give the same target.

    Args:
        labels: `(h, w)`, 0 background, ids 1 to k.
        classes: `(k,)` class of each id, 0-based.
        valid: `(h, w)`, False where nothing is known.
    """
    boxes = _boxes(labels, len(classes))
    keep = _is_learnt(labels, boxes, valid)
    chosen = np.flatnonzero(keep)
    if len(chosen) > MOST_OBJECTS:
        rng = np.random.default_rng([len(chosen), int(labels.sum(dtype=np.int64))])
        chosen = np.sort(rng.choice(chosen, MOST_OBJECTS, replace=False))
    is_dropped = np.ones(len(classes) + 1, np.bool_)
    is_dropped[chosen + 1] = False
    is_dropped[0] = False
    return Target(
        boxes=torch.from_numpy(boxes[chosen].astype(np.float32)),
        labels=torch.from_numpy(classes[chosen].astype(np.int64) + 1),
        ids=torch.from_numpy((chosen + 1).astype(np.int32)),
        objects=torch.from_numpy(labels.astype(np.int32)),
        ignored=torch.from_numpy(~valid | is_dropped[labels]),
    )


def _boxes(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """`(k, 4)` left, top, right, bottom of ids 1 to k; right below left for an id without pixels."""
    height, width = labels.shape
    row, col = np.nonzero(labels)
    owner = labels[row, col] - 1
    boxes = np.tile(np.array([width, height, 0, 0], np.int64), (count, 1))
    for place, (values, reduce) in enumerate(
        ((col, np.minimum), (row, np.minimum), (col + 1, np.maximum), (row + 1, np.maximum))
    ):
        reduce.at(boxes[:, place], owner, values)
    return boxes


def _is_learnt(labels: NDArray[np.int32], boxes: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`(k,)`, True for objects that are known and more than a sliver."""
    count = len(boxes)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    known = np.bincount(labels[valid], minlength=count + 1)[1:]
    size = boxes[:, 2:] - boxes[:, :2]
    height, width = labels.shape
    is_cut = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2] == width) | (boxes[:, 3] == height)
    learnt: NDArray[np.bool_] = (area > 0) & (known >= _KNOWN * area) & ~(is_cut & (size.min(axis=1) < _SLIVER))
    return learnt
