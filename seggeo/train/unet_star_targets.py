"""Star distances that the U-Net learns from a labelled crop: how far each object pixel is from its object's boundary.

A ray leaves a pixel's centre and is followed from one line of pixel centres to the next, rows or columns, whichever it
crosses more of; there the nearest pixel counts. The boundary is taken midway between the last pixel of the object and the
first of something else. All pixels go along one direction together, as one array shifted by one number per step.
After Schmidt et al. 2018 (StarDist).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.models.unet_fields import OFFSET_UNIT, ray_directions

_UNKNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class StarTargets:
    """Arrays of one crop, `(rays, h, w)`."""

    distance: NDArray[np.float32]
    """To the boundary along each of `ray_directions`, in units of `OFFSET_UNIT` px; 0 outside objects."""
    is_cut: NDArray[np.bool_]
    """The crop's side, or a place of which nothing is known, comes before the boundary: it is at least this far."""


def star_targets(labels: NDArray[np.int32], valid: NDArray[np.bool_], rays: int) -> StarTargets:
    """Star distances of one crop.

    Args:
        labels: `(h, w)`, 0 background, ids 1 to k.
        valid: `(h, w)`, False where nothing is known.
        rays: Directions.
    """
    small = np.int16 if labels.max(initial=0) < np.iinfo(np.int16).max else np.int32
    padded = np.pad(np.where(valid, labels, _UNKNOWN).astype(small), 1, constant_values=_UNKNOWN)
    flat = padded.ravel()
    at = np.flatnonzero(flat > 0)
    within = np.flatnonzero(padded[1:-1, 1:-1] > 0)
    distance = np.zeros((rays, labels.size), np.float32)
    is_cut = np.zeros((rays, labels.size), bool)
    for ray, direction in enumerate(ray_directions(rays)):
        longest = np.abs(direction).max()
        lines = np.rint(np.arange(1, max(padded.shape))[:, None] * (direction / longest)).astype(np.int64)
        steps = lines @ (padded.shape[1], 1)
        passed = _passed(flat, steps)[at]
        distance[ray, within] = (passed + 0.5) / (longest * OFFSET_UNIT)
        is_cut[ray, within] = flat[at + steps[passed]] == _UNKNOWN
    shape = (rays, *labels.shape)
    return StarTargets(distance=distance.reshape(shape), is_cut=is_cut.reshape(shape))


def _passed(flat: NDArray[np.signedinteger], steps: NDArray[np.int64]) -> NDArray[np.uint16]:
    """How many steps lead to pixels of the same object, per pixel, before the first that does not.

    A ray cannot slip past the frame of unknown pixels, since no step is longer than a row and a column.
    """
    alive = flat > 0
    same = np.zeros(len(flat), bool)
    passed = np.zeros(len(flat), np.uint16)
    recent = np.zeros(len(flat), np.uint8)  # 8 bits add up twice as fast as 16
    for number, step in enumerate(steps.tolist(), start=1):
        start, stop = max(0, -step), len(flat) - max(0, step)
        np.equal(flat[start + step : stop + step], flat[start:stop], out=same[start:stop])
        alive[start:stop] &= same[start:stop]
        recent += alive.view(np.uint8)
        if number % 255 == 0:
            passed += recent
            recent[:] = 0
        if not alive.any():
            break
    return passed + recent
