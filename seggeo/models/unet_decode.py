"""From fields to objects: every pixel votes for its object's centre, and the votes that pile up are an object.

1. `cast`: a pixel looks where its offset leads, and twice more from there, which gathers the votes closely.
2. `heap_up`: votes are counted per pixel and smoothed; piles are the basins of the count.
3. `join_near`: piles closer than their objects' sizes allow are one object.
4. A pixel belongs to the pile its vote fell on; an object keeps its largest connected piece, with holes filled (`cleaned`).

Every step looks a bounded way around, so that two windows with equal fields give equal objects. After Cheng et al. 2020
(Panoptic-DeepLab) and Neven et al. 2019 (votes as clusters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.models.basins import Labels
from seggeo.models.unet_pieces import cleaned
from seggeo.models.unet_votes import cast, heap_up, join_near


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
    chance = _any_class(chances)
    inside = chance > d.foreground
    at = np.flatnonzero(inside)
    if not len(at):
        return _settled(at, at, chances, d)
    votes = cast(at, inside, np.ascontiguousarray(offset))
    pile = heap_up(votes, chance.shape, d.smooth)
    owner = np.empty(chance.size, np.int32)
    owner[votes.place] = join_near(votes, pile, chance.shape[1], d.join)[pile]
    return _settled(at, owner[votes.first], chances, d)


def settled(labels: Labels, chances: NDArray[np.float32], d: Decoding) -> Decoded:
    """Objects of labels that any grouping has made: connected, without holes, neither too small nor too unsure; with classes.

    Args:
        labels: `(h, w)`, 0 for background.
        chances: `(k, h, w)` as in `decode`.
        d: Thresholds.
    """
    at = np.flatnonzero(labels)
    return _settled(at, labels.ravel()[at], chances, d)


def _settled(at: NDArray[np.int64], owner: NDArray[np.integer], chances: NDArray[np.float32], d: Decoding) -> Decoded:
    """As `settled`, of the labels of the pixels `at` alone."""
    labels, score = cleaned(at, owner, _any_class(chances), d.min_area, d.min_score)
    return Decoded(labels=labels, score=score, label=_classes(labels, chances, len(score)))


def _any_class(chances: NDArray[np.float32]) -> NDArray[np.float32]:
    chance: NDArray[np.float32] = chances[0] if len(chances) == 1 else chances.sum(axis=0)
    return chance


def _classes(labels: Labels, chances: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """The class that each object's pixels hold likeliest together."""
    if len(chances) == 1 or not count:
        return np.zeros(count, np.int32)
    sums = [np.bincount(labels.ravel(), weights=c.ravel(), minlength=count + 1)[1:] for c in chances]
    return np.asarray(np.argmax(sums, axis=0), np.int32)
