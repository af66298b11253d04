"""Labels of any grouping made into objects: of each the largest connected piece, without holes, neither too small nor unsure.

Everything is told by row runs of one label, some twenty for an object, in place of the window's millions of pixels:

1. `_runs`: runs in scan order; `_contacts`: runs of one label that meet in neighbouring rows.
2. Pieces are groups of runs that meet by sides.
3. A piece of n runs that meet, corners counted, n - 1 times has no hole (its Euler number is 1); only the others are
   filled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.models.basins import Labels, linked
from seggeo.rle import ragged_ranges

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Pixels of one row and label that follow each other; arrays of one length, in scan order."""

    start: Index
    """Flat index of the first pixel, in an image of one column more than the window, so that rows never touch."""
    length: Index
    label: NDArray[np.integer]


def cleaned(
    at: Index, labels: NDArray[np.integer], chance: NDArray[np.float32], min_area: float, min_score: float
) -> tuple[Labels, NDArray[np.float32]]:  # fmt: skip
    """Each label's largest 4-connected piece with its holes filled, and its score; the small and the unsure are left out.

    Args:
        at: Flat indices of all pixels that have a label, ascending.
        labels: `(n,)` of these pixels, above 0.
        chance: `(h, w)` probability of an object; its mean over a piece is the score.
        min_area: Smallest piece, px.
        min_score: Least score.

    Returns:
        `(h, w)` 1 to k in scan order of the pieces, and their scores `(k,)`.
    """
    width = chance.shape[1]
    runs = _runs(at, labels, width)
    one, two, by_side = _contacts(runs, width + 1)
    piece = linked(one[by_side], two[by_side], len(runs.start))
    count = int(piece.max(initial=-1)) + 1
    piece_at = np.repeat(piece, runs.length)
    area = np.bincount(piece_at, minlength=count)
    total = np.bincount(piece_at, weights=chance.ravel()[at], minlength=count)
    score = (total / np.maximum(area, 1)).astype(np.float32)
    keep = _largest(piece, runs.label, area) & (area >= min_area) & (score >= min_score)
    ids = np.flatnonzero(keep)
    number = np.zeros(count, np.int32)
    number[ids] = np.arange(1, len(ids) + 1)
    out = np.zeros(chance.shape, np.int32)
    out.ravel()[at] = number[piece_at]
    # Contacts at corners join two pieces of a label only where those are told apart by sides, and make no hole of them.
    inner = piece[one] == piece[two]
    euler = np.bincount(piece, minlength=count) - np.bincount(piece[one[inner]], minlength=count)
    _fill(out, number[ids[euler[ids] < 1]])
    return out, score[ids]


def _runs(at: Index, labels: NDArray[np.integer], width: int) -> _Runs:
    begins = np.ones(len(at), bool)
    np.not_equal(at[1:], at[:-1] + 1, out=begins[1:])
    begins[1:] |= labels[1:] != labels[:-1]
    # A row's first pixel begins a run, whatever the row before ended with.
    heads = np.searchsorted(at, np.arange(0, (int(at[-1]) if len(at) else 0) + 1, width))
    begins[heads[heads < len(at)]] = True
    first = np.flatnonzero(begins)
    start = at[first]
    return _Runs(start=start + start // width, length=np.diff(first, append=len(at)), label=labels[first])


def _contacts(runs: _Runs, width: int) -> tuple[Index, Index, NDArray[np.bool_]]:
    """Pairs of runs of one label in neighbouring rows that meet, corners counted, and whether they meet by sides."""
    below = runs.start + width
    stop = runs.start + runs.length
    first = np.searchsorted(stop, below)  # ends where the other begins, or later: a corner at least
    last = np.searchsorted(runs.start, below + runs.length, side="right")
    two, one = ragged_ranges(first, np.maximum(last - first, 0))
    same = runs.label[one] == runs.label[two]
    one, two = one[same], two[same]
    by_side = (stop[two] > below[one]) & (runs.start[two] < below[one] + runs.length[one])
    return one, two, by_side


def _largest(piece: NDArray[np.int32], label: NDArray[np.integer], area: Index) -> NDArray[np.bool_]:
    """True for the largest piece of each label, the first of equal ones."""
    count = len(area)
    owner = np.zeros(count, np.int64)
    owner[piece] = label
    order = np.lexsort((np.arange(count), -area, owner))
    first = np.ones(count, bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    keep = np.zeros(count, bool)
    keep[order[first]] = True
    return keep


def _fill(out: Labels, ids: NDArray[np.int32]) -> None:
    """Fill the holes of these objects, in order, with what is no other's."""
    boxes = ndimage.find_objects(out) if len(ids) else []
    for i in ids.tolist():
        box = boxes[i - 1]
        filled = ndimage.binary_fill_holes(out[box] == i)
        out[box][filled & (out[box] == 0)] = i
