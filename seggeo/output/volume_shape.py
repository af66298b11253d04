"""Surfaces of a volume's objects from pairs of neighbouring slices, for all objects of a pair at once.

Marching cubes puts a patch into every cube of 2 x 2 x 2 voxel centres, and which one depends on those eight voxels alone.
So an object's area is a sum over cubes, and a cube's area is one of 256 numbers:

1. `cube_areas` asks scikit-image for the patch of each of the 256 cubes, in the volume's own spacing;
2. `pair_areas` adds up the cubes between two slices. Four lines of voxels lie around a row of cubes; what is inside changes
   only where a row interval of one of them begins or ends, so the work grows with the outline and not with the area.

The sum over all pairs is the area of the whole object's marching cubes surface; nothing larger than two slices is held.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from seggeo.rle import Spans

FloatArray = NDArray[np.float64]
marching_cubes: Any = measure.marching_cubes
"""Of Lewiner et al. 2003; scikit-image has no types for it."""


def cube_areas(steps: FloatArray) -> FloatArray:
    """`(256,)` world areas of the patches that marching cubes at 0.5 puts into a cube of eight voxels.

    Bit `4 col + 2 z + row` of an index says that the voxel at that corner is inside. After Lewiner et al. 2003, as
    scikit-image has it, which decides ambiguous cubes by the same eight voxels.

    Args:
        steps: `(3, 3)`, columns are the world vectors of a step along z, row and col.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)  # col, z, row
        corners, faces, *_ = marching_cubes(inside.transpose(1, 2, 0), 0.5)
        areas[code] = mesh_area(corners @ steps.T, faces)
    return areas


def mesh_area(corners: NDArray[np.floating[Any]], faces: NDArray[np.integer[Any]]) -> float:
    """Area of triangles `(f, 3)` over points `(n, 3)`."""
    a, b, c = (corners[faces[:, i]].astype(np.float64) for i in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def pair_areas(below: Spans, above: Spans, count: int, areas: FloatArray) -> FloatArray:
    """`(count,)` areas of every object's surface between the voxel centres of two neighbouring slices.

    Args:
        below: Of the first slice; owners 0 to `count - 1`, the same in both. Objects may overlap each other.
        above: Of the next slice.
        count: Objects.
        areas: From `cube_areas`.
    """
    if not len(below) + len(above):
        return np.zeros(count)
    both = [spans for spans in (below, above) if len(spans)]
    top, left = (min(int(getattr(spans, name).min()) for spans in both) for name in ("row", "start"))
    rows = max(int(spans.row.max()) for spans in both) - top + 2
    width = max(int(spans.stop.max()) for spans in both) - left + 1
    events = []
    for bit, spans in enumerate((below, above)):
        line = (spans.owner * rows + spans.row - top + 1) * width - left
        ends = np.stack([line + spans.start, line + spans.stop], axis=1).ravel()
        # A row of voxels is the first line of the cubes below it and the second one of the cubes above it.
        events += [ends << 4 | 1 << 2 * bit, (ends - width) << 4 | 2 << 2 * bit]
    event = np.sort(np.concatenate(events), kind="stable")  # merges four sorted lists
    key, flip = event >> 4, (event & 15).astype(np.uint8)
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    key, flip = key[first], np.bitwise_xor.reduceat(flip, first)
    after = np.bitwise_xor.accumulate(flip)  # back at 0 at the end of every line: each interval flips its bit twice
    before = np.concatenate([np.zeros(1, np.uint8), after[:-1]])
    alike = np.concatenate([np.diff(key) - 1, [0]])
    found = areas[before | after << 4] + areas[after | after << 4] * alike
    return np.asarray(np.bincount(key // (rows * width), weights=found, minlength=count), np.float64)


def chunks(weights: NDArray[np.integer[Any]], most: int) -> list[slice]:
    """Stretches of a list whose weights add up to about `most`; a heavier item has one of its own."""
    cuts = np.flatnonzero(np.diff(np.cumsum(weights) // most)) + 1
    return [slice(int(a), int(b)) for a, b in pairwise([0, *cuts, len(weights)]) if b > a]


def sphericity(volume: FloatArray, area: FloatArray) -> FloatArray:
    """Area of the ball of the same volume over the area: 1 for a ball, less for everything else (Wadell 1935).

    Surfaces that marching cubes draws around voxels are stepped, and the more so the farther slices are apart: a ball of
    many voxels measures 9 % more than it has, 19 % with slices 4 times as far apart as voxels, 22 % with 6 times. Its
    sphericity is 0.92, 0.84 and 0.82 then: compare within one spacing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)
