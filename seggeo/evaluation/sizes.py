"""Recall and precision by the size of the object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.rows import HIT, IGNORED, Rows

_MOST_BINS = 8
_LEAST_IN_BIN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BySize:
    """Shares of hits in bins of area with about equally many true objects, small ones first; arrays `(bins,)`."""

    edges: NDArray[np.float64]
    """Areas in px, volumes in voxels, `(bins + 1,)`; a bin goes from its lower edge up to, not including, the upper one."""
    recall: NDArray[np.float64]
    """NaN where no true object is."""
    precision: NDArray[np.float64]
    n_true: NDArray[np.int64]
    n_pred: NDArray[np.int64]


def by_size(images: Iterable[tuple[Rows, Rows]]) -> BySize:
    """Hits by area, over all images; ignored objects are left out.

    Args:
        images: Rows of truth and prediction.
    """
    sides = list(images)
    area, hit = zip(*(_joined([pair[side] for pair in sides]) for side in (0, 1)), strict=True)
    basis = area[0] if len(area[0]) else area[1]
    bins = int(np.clip(len(basis) // _LEAST_IN_BIN, 1, _MOST_BINS))
    inner = np.unique(np.quantile(basis, np.arange(1, bins) / bins).round()) if len(basis) and bins > 1 else np.zeros(0)
    whole = np.concatenate([*area, [1]])
    low, high = float(whole.min()), float(whole.max()) + 1
    edges = np.concatenate([[low], inner[(inner > low) & (inner < high)], [high]])
    counts = [np.histogram(a, edges)[0] for a in area]
    hits = [np.histogram(a[h], edges)[0] for a, h in zip(area, hit, strict=True)]
    recall, precision = (np.where(n > 0, h / np.maximum(n, 1), np.nan) for h, n in zip(hits, counts, strict=True))
    return BySize(edges=edges, recall=recall, precision=precision, n_true=counts[0], n_pred=counts[1])


def _joined(rows: list[Rows]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Areas of the objects that count, and which are hits."""
    outcome = np.concatenate([np.zeros(0, np.uint8), *(r.outcome for r in rows)])
    area = np.concatenate([np.zeros(0, np.int64), *(r.area for r in rows)])
    return area[outcome != IGNORED], outcome[outcome != IGNORED] == HIT
