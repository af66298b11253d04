"""Which prediction stands for which true object: one to one, at a threshold of IoU.

Above one half a pair is unique where objects of one side never overlap (Kirillov et al. 2019, Panoptic Segmentation).
Below, and for masks that overlap, the assignment is solved: as many pairs as can be, then the largest sum of IoU. Only
objects with a choice are solved, one connected component of the pair graph at a time, so nothing of size true x predicted
is ever made.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from seggeo.evaluation.pairs import Pairs
from seggeo.rle import IntArray

_DENSE = 250_000
"""Largest component, true x predicted, that is solved as a dense matrix."""


def match(pairs: Pairs, threshold: float, *, strict: bool = False) -> IntArray:
    """Positions of the matched pairs, ascending: each object is in one at most.

    Args:
        pairs: The candidates.
        threshold: Least IoU of a match, above 0.
        strict: True when a match needs more than `threshold`, as panoptic quality asks.
    """
    iou = pairs.iou
    candidates = np.flatnonzero(iou > threshold if strict else iou >= threshold)
    truth, pred = pairs.truth[candidates], pairs.pred[candidates]
    contested = (np.bincount(truth)[truth] > 1) | (np.bincount(pred)[pred] > 1)
    unsure = candidates[contested]
    solved = _assign(pairs.truth[unsure], pairs.pred[unsure], iou[unsure], most_pairs=True)
    return np.sort(np.concatenate([candidates[~contested], unsure[solved]]))


def match_all(pairs: Pairs) -> IntArray:
    """Positions of the one-to-one pairs with the largest sum of IoU, without any threshold (as AJI+ asks), ascending."""
    iou = pairs.iou
    left = np.arange(len(pairs))
    sure = [np.zeros(0, np.int64)]
    while len(left):
        truth, pred, weight = pairs.truth[left], pairs.pred[left], iou[left]
        # A pair at least as good as the best others of its two objects together is in a best assignment.
        safe = weight > _best_other(truth, weight) + _best_other(pred, weight)
        if not safe.any():
            break
        sure.append(left[safe])
        taken = np.isin(truth, truth[safe]) | np.isin(pred, pred[safe])
        left = left[~taken]
    solved = _assign(pairs.truth[left], pairs.pred[left], iou[left], most_pairs=False)
    return np.sort(np.concatenate([*sure, left[solved]]))


def _best_other(owner: IntArray, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each pair the largest weight among the other pairs of its owner, 0 where there is none."""
    order = np.lexsort((-weight, owner))
    ranked, value = owner[order], weight[order]
    is_first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    group = np.cumsum(is_first) - 1
    first = np.flatnonzero(is_first)
    has_second = np.diff(np.concatenate([first, [len(owner)]])) > 1
    second = np.where(has_second, value[np.minimum(first + 1, len(owner) - 1)], 0.0)
    others = np.empty(len(owner))
    others[order] = np.where(is_first, second[group], value[first][group])
    return others


def _assign(truth: IntArray, pred: IntArray, iou: NDArray[np.float64], *, most_pairs: bool) -> IntArray:
    """Positions of the best one-to-one pairs among the given ones."""
    if not len(truth):
        return np.zeros(0, np.int64)
    rows, row = np.unique(truth, return_inverse=True)
    cols, col = np.unique(pred, return_inverse=True)
    size = len(rows) + len(cols)
    graph = coo_matrix((np.ones(len(row), bool), (row, col + len(rows))), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component[row], kind="stable")
    bounds = np.flatnonzero(np.diff(component[row][order])) + 1
    return np.concatenate([which[_solve(row[which], col[which], iou[which], most_pairs)] for which in np.split(order, bounds)])


def _solve(row: IntArray, col: IntArray, iou: NDArray[np.float64], most_pairs: bool) -> IntArray:
    """The best pairs of one connected component."""
    rows, i = np.unique(row, return_inverse=True)
    cols, j = np.unique(col, return_inverse=True)
    # One pair more outweighs any sum of IoU that it may cost.
    weight = iou + (min(len(rows), len(cols)) if most_pairs else 0)
    if len(rows) * len(cols) <= _DENSE:
        table = np.zeros((len(rows), len(cols)))
        table[i, j] = weight
        a, b = linear_sum_assignment(table, maximize=True)
    else:
        a, b = _solve_sparse(i, j, weight, (len(rows), len(cols)))
    position = {(int(r), int(c)): k for k, (r, c) in enumerate(zip(i, j, strict=True))}
    found = [position.get((int(r), int(c)), -1) for r, c in zip(a, b, strict=True)]
    return np.array([k for k in found if k >= 0], np.int64)


def _solve_sparse(i: IntArray, j: IntArray, weight: NDArray[np.float64], shape: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """The same for a large component; every row may also stay alone, in a column of its own worth nearly nothing."""
    n, m = shape
    alone = np.arange(n)
    values = np.concatenate([weight, np.full(n, 1e-9)])
    table = coo_matrix((values, (np.concatenate([i, alone]), np.concatenate([j, m + alone]))), shape=(n, m + n))
    a, b = min_weight_full_bipartite_matching(table.tocsr(), maximize=True)
    return a.astype(np.int64), b.astype(np.int64)
