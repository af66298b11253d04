"""Scores that look at pixels over all objects (AJI, AJI+), and objects told in pieces or together (splits, merges)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.matching import match_all
from seggeo.evaluation.pairs import Pairs
from seggeo.rle import IntArray

_PIECE = 0.1
"""Least share of the whole that a piece must hold: slivers are poor outlines, not pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Which pairs an aggregated index counts, and which predictions it leaves alone."""

    pairs: IntArray
    """Positions of the pairs, one for a true object at most."""
    lone_pred: NDArray[np.bool_]
    """True for predictions in no pair, over all predictions, `(m,)`."""


def paired_by_best(pairs: Pairs) -> Paired:
    """Pairs of the aggregated Jaccard index: every true object with the prediction of largest IoU, the first of equals.

    One prediction may serve several true objects. Source: Kumar et al. 2017, 10.1109/TMI.2017.2677499, as HoVer-Net's
    metrics count it.
    """
    order = np.lexsort((pairs.pred, -pairs.iou, pairs.truth))
    truth = pairs.truth[order]
    return _paired(pairs, order[np.concatenate([np.ones(min(len(truth), 1), bool), truth[1:] != truth[:-1]])])


def paired_one_to_one(pairs: Pairs) -> Paired:
    """Pairs of AJI+: one to one, with the largest sum of IoU. Source: Graham et al. 2019, 10.1016/j.media.2019.101563."""
    return _paired(pairs, match_all(pairs))


def _paired(pairs: Pairs, which: IntArray) -> Paired:
    lone = np.ones(len(pairs.pred_area), bool)
    lone[pairs.pred[which]] = False
    return Paired(pairs=which, lone_pred=lone)


def pieces_of_truth(pairs: Pairs) -> IntArray:
    """Predictions that are pieces of each true object, `(n,)`: most of their pixels lie in it, and they hold a tenth of it.

    Two or more make a *split*; so do two predictions of one object that lie over each other (duplicates).
    """
    is_piece = (2 * pairs.shared > pairs.pred_area[pairs.pred]) & (pairs.share_of_truth >= _PIECE)
    return np.bincount(pairs.truth[is_piece], minlength=len(pairs.truth_area))


def pieces_of_pred(pairs: Pairs) -> IntArray:
    """True objects that are pieces of each prediction, `(m,)`, by the same rule; two or more make a *merge*."""
    is_piece = (2 * pairs.shared > pairs.truth_area[pairs.truth]) & (pairs.share_of_pred >= _PIECE)
    return np.bincount(pairs.pred[is_piece], minlength=len(pairs.pred_area))
