"""Anchors of a detector from the sizes of the labelled objects, as training will show them.

1. `seen_sides` draws objects as the sampler does, zoom included.
2. `anchor_levels` shares their sizes among the levels of the pyramid and takes quantiles in each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.train.augment import Augmentation, zoom
from seggeo.train.sampler import median_diameter
from seggeo.train.scenes import Scene

DRAWN = 4000
"""Objects that the sizes are taken from."""
LEAST_STEPS = 2.0
"""Smallest anchor of a level in its stride: two anchors' centres may then miss an object by half its side at most."""
_FEW = 0.02
"""Share of all objects below which a level goes on from the one before."""


def box_sides(objects: Instances) -> NDArray[np.float64]:
    """`(n,)` sides of squares as large as the objects' boxes, px."""
    size = (objects.box[:, 2:] - objects.box[:, :2]).astype(np.float64)
    sides: NDArray[np.float64] = np.sqrt(size.prod(axis=1))
    return sides


def seen_sides(scenes: Sequence[Scene], augmentation: Augmentation, seed: int) -> NDArray[np.float64]:
    """`(n,)` sides, px, of objects as samples show them: scenes by their weight, zoomed as augmentation does."""
    full = [scene for scene in scenes if len(scene.objects)]
    rng = np.random.default_rng(seed)
    weight = np.array([scene.weight for scene in full], np.float64)
    sides = [box_sides(scene.objects) for scene in full]
    diameter = [median_diameter(scene.objects) for scene in full]
    drawn = rng.choice(len(full), DRAWN, p=weight / weight.sum())
    return np.array([zoom(augmentation, diameter[i], rng) * rng.choice(sides[i]) for i in drawn])


def anchor_levels(sides: NDArray[np.float64], strides: Sequence[int], each: int) -> tuple[tuple[float, ...], ...]:
    """Sides of the anchors of each level, `each` of them, ascending over all levels.

    Levels get equal shares of the objects, but none that are small for its stride: those go to the finer levels before.
    Levels without objects double the one before.

    Args:
        sides: Of objects, px.
        strides: Of the levels, px, ascending.
        each: Anchors at one place of a level, aspect ratios not counted.
    """
    low, high = np.percentile(sides, [1, 99])
    edges = [low]
    for number, stride in enumerate(strides[1:], 1):
        share = np.quantile(sides, number / len(strides))
        edges.append(max(share, LEAST_STEPS * stride, edges[-1] * 1.05))
    edges.append(max(high, edges[-1]) * 1.001)
    middle = (np.arange(each) + 0.5) / each
    levels: list[tuple[float, ...]] = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        inside = sides[(sides >= start) & (sides < stop)]
        if len(inside) > max(each, _FEW * len(sides)):
            found = np.quantile(inside, middle)
        else:
            found = start * 2.0 ** (np.arange(each) / each)
        levels.append(tuple(round(float(side), 1) for side in found))
    return tuple(levels)
