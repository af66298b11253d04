"""Label volumes made up at random, and poor predictions of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.report import Evaluation
from seggeo.evaluation.volume_scores import VolumeScores

Labels = NDArray[np.int64]


def boxes_volume(rng: np.random.Generator, shape: tuple[int, int, int] = (12, 24, 22), most: int = 14) -> Labels:
    """Boxes over each other, thin ones and single voxels too, ids with holes in their numbers."""
    labels = np.zeros(shape, np.int64)
    for i in range(rng.integers(0, most)):
        z, row, col = (rng.integers(0, size) for size in shape)
        depth, height, width = rng.integers(1, 9, 3)
        labels[z : z + depth, row : row + height, col : col + width] = 3 * i + 2
    return labels


def poor_volume(rng: np.random.Generator, truth: Labels) -> Labels:
    """A prediction: moved, unlinked from some slice on, two objects joined, slices missed, voxels eaten."""
    found = np.roll(truth, 1, int(rng.integers(0, 3)))
    ids = np.unique(found[found > 0])
    if len(ids) > 2:
        found[found == ids[0]] = ids[1]
    cut = rng.integers(1, len(found))
    late = found[cut:]
    late[(late > 0) & (late % 2 == 0)] += 1000
    found[rng.random(len(found)) < 0.1] = 0
    found[rng.random(found.shape) < 0.03] = 0
    return found


def volume_pairs(count: int, seed: int) -> list[tuple[Labels, Labels]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        truth = boxes_volume(rng)
        pairs.append((truth, poor_volume(rng, truth) if i % 4 else boxes_volume(rng)))
    empty = np.zeros((12, 24, 22), np.int64)
    return [*pairs, (empty, empty), (boxes_volume(rng), empty), (empty, boxes_volume(rng))]


def one_pair(seed: int) -> tuple[Labels, Labels]:
    """A truth of seven objects or more, and a prediction that has half of their voxels right."""
    pairs = [(truth, pred) for truth, pred in volume_pairs(40, seed) if len(np.unique(truth)) > 7]
    return next((truth, pred) for truth, pred in pairs if (truth == pred)[truth > 0].mean() > 1 / 2)


def along(result: Evaluation) -> VolumeScores:
    """What only volumes have."""
    assert result.along_z is not None
    return result.along_z
