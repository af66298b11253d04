"""From fields to objects: every pixel votes for its object's centre, and the votes that pile up are an object.

1. `votes`: a pixel looks where its offset leads, and once more from there, which gathers the votes closely.
2. Votes are counted per pixel and smoothed; `ascend` gathers the piles (basins of the count).
3. Piles closer than their objects' sizes allow are one object.
4. A pixel belongs to the pile its vote fell on; an object keeps its largest connected piece, with holes filled.

Every step looks a bounded way around, so that two windows with equal fields give equal objects. After Cheng et al. 2020
(Panoptic-DeepLab) and Neven et al. 2019 (votes as clusters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import label as components

from seggeo.models.basins import ascend

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Thresholds of the decoding, tuned on validation images."""

    foreground: float = 0.5
    """Least probability of an object at a pixel."""
    smooth: float = 1.2
    """Sigma, px, by which votes are gathered."""
    join: float = 0.45
    """Two piles nearer than this share of the sum of their radii are one object."""
    min_area: float = 6.0
    """Smallest object, px."""
    min_score: float = 0.5
    """Least mean probability of an object."""
    peak: float = 0.25
    """Least seed times chance of a pixel that speaks for a star."""
    nms: float = 0.4
    """Of two stars that share more than this of the smaller one the better stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Objects of a window."""

    labels: Labels
    """`(h, w)`, 1 to n."""
    score: NDArray[np.float32]
    """`(n,)` mean probability of being an object at all."""
    label: NDArray[np.int32]
    """`(n,)` class."""


def decode(chances: NDArray[np.float32], offset: NDArray[np.float32], d: Decoding) -> Decoded:
    """Objects of the fields of one window.

    Args:
        chances: `(k, h, w)` probability that a pixel belongs to an object of each class.
        offset: `(2, h, w)` to the object's centre, px, rows then columns.
        d: Thresholds.
    """
    chance = chances[0] if len(chances) == 1 else chances.sum(axis=0)
    inside = chance > d.foreground
    row, col = np.nonzero(inside)
    if not len(row):
        none = np.zeros(0, np.float32)
        return Decoded(labels=np.zeros(chance.shape, np.int32), score=none, label=none.astype(np.int32))
    at_row, at_col = _votes(row, col, inside, offset)
    pile = _piles(at_row, at_col, chance.shape, d)
    pile = _joined(row, col, at_row, at_col, pile, d)[pile]
    labels = np.zeros(chance.shape, np.int32)
    labels[row, col] = pile
    return settled(labels, chances, d)


def settled(labels: Labels, chances: NDArray[np.float32], d: Decoding) -> Decoded:
    """Objects of labels that any grouping has made: connected, without holes, neither too small nor too unsure; with classes.

    Args:
        labels: `(h, w)`, 0 for background.
        chances: `(k, h, w)` as in `decode`.
        d: Thresholds.
    """
    chance = chances[0] if len(chances) == 1 else chances.sum(axis=0)
    labels, score = _cleaned(labels, chance, d)
    return Decoded(labels=labels, score=score, label=_classes(labels, chances, len(score)))


def _votes(
    row: NDArray[np.int64], col: NDArray[np.int64], inside: NDArray[np.bool_], offset: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Where each pixel's vote falls, whole pixels of the window."""
    height, width = inside.shape
    to_row, to_col = row + offset[0, row, col], col + offset[1, row, col]
    for _ in range(2):
        r = np.clip(np.rint(to_row), 0, height - 1).astype(np.int64)
        c = np.clip(np.rint(to_col), 0, width - 1).astype(np.int64)
        again = inside[r, c]
        to_row = np.where(again, r + offset[0, r, c], to_row)
        to_col = np.where(again, c + offset[1, r, c], to_col)
    return np.clip(np.rint(to_row), 0, height - 1).astype(np.int64), np.clip(np.rint(to_col), 0, width - 1).astype(np.int64)


def _piles(at_row: NDArray[np.int64], at_col: NDArray[np.int64], shape: tuple[int, ...], d: Decoding) -> NDArray[np.int64]:
    """Number of the pile each vote fell on, 1 to n."""
    flat = at_row * shape[1] + at_col
    count = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
    density = ndimage.gaussian_filter(count, d.smooth, mode="constant", truncate=3.0)
    basins = ascend(density, density > 1e-3)
    return np.asarray(basins.labels[at_row, at_col], np.int64)


def _joined(
    row: NDArray[np.int64], col: NDArray[np.int64], at_row: NDArray[np.int64], at_col: NDArray[np.int64],
    pile: NDArray[np.int64], d: Decoding,
) -> NDArray[np.int64]:  # fmt: skip
    """The object of each pile: piles that lie nearer than their sizes allow are joined, nearest first."""
    count = int(pile.max()) + 1
    area = np.bincount(pile, minlength=count)
    size = np.maximum(area, 1)
    centre = np.stack([np.bincount(pile, weights=v, minlength=count) / size for v in (at_row, at_col)], axis=1)
    radius = np.sqrt(area / np.pi)
    group = np.arange(count)
    real = np.flatnonzero(area > 0)
    if len(real) < 2:
        return group
    pairs = cKDTree(centre[real]).query_pairs(2 * d.join * float(radius.max()), output_type="ndarray")
    if not len(pairs):
        return group
    a, b = real[pairs[:, 0]], real[pairs[:, 1]]
    apart = np.hypot(*(centre[a] - centre[b]).T)
    near = apart < d.join * (radius[a] + radius[b])
    order = np.lexsort((b[near], a[near], apart[near]))
    for i, j in zip(a[near][order], b[near][order], strict=True):
        while group[i] != i:
            i = group[i]
        while group[j] != j:
            j = group[j]
        group[max(i, j)] = min(i, j)
    while not np.array_equal(group[group], group):
        group = group[group]
    return group


def _cleaned(labels: Labels, chance: NDArray[np.float32], d: Decoding) -> tuple[Labels, NDArray[np.float32]]:
    """Each object's largest 4-connected piece with its holes filled; those too small or too unsure are left out."""
    pieces: Labels = components(labels, connectivity=1, background=0)  # type: ignore[no-untyped-call]
    count = int(pieces.max())
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = labels.ravel()
    order = np.lexsort((np.arange(count + 1), -area, owner))
    first = np.ones(count + 1, bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    keep = np.zeros(count + 1, bool)
    keep[order[first]] = True
    total = np.bincount(pieces.ravel(), weights=chance.ravel(), minlength=count + 1)
    score = (total / np.maximum(area, 1)).astype(np.float32)
    keep &= (area >= d.min_area) & (score >= d.min_score)
    keep[0] = False
    lookup = np.zeros(count + 1, np.int32)
    ids = np.flatnonzero(keep)
    lookup[ids] = np.arange(1, len(ids) + 1)
    out = lookup[pieces]
    for i, box in enumerate(ndimage.find_objects(out), start=1):
        if box is None:
            continue
        mine = out[box] == i
        filled = ndimage.binary_fill_holes(mine)
        out[box][filled & (out[box] == 0)] = i
    return out, score[ids]


def _classes(labels: Labels, chances: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """The class that each object's pixels hold likeliest together."""
    if len(chances) == 1 or not count:
        return np.zeros(count, np.int32)
    sums = [np.bincount(labels.ravel(), weights=c.ravel(), minlength=count + 1)[1:] for c in chances]
    return np.asarray(np.argmax(sums, axis=0), np.int32)
