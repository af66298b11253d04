"""COCO's run lengths, which go column by column, as row intervals: many masks at once, never as pixels.

1. `unpack` reads the compressed strings: 5 bits a character, lowest first, the sixth says that more follow; from the
   fourth count on, each is stored less the count two before it (pycocotools, maskApi.c: the format).
2. `column_runs_to_spans` transposes: a pixel begins a row interval exactly when its left neighbour is not of the mask,
   which is a difference of column runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seggeo.rle import Spans, normalise, ragged_ranges, runs_to_spans, subtract

IntArray = NDArray[np.int64]


def unpack(texts: list[bytes]) -> tuple[IntArray, IntArray]:
    """All counts of compressed strings, and where each string's begin, `(n + 1,)`.

    Raises:
        ValueError: A string is damaged.
    """
    length = np.array([len(t) for t in texts], np.int64)
    letter = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    if not len(letter):
        return np.zeros(0, np.int64), np.zeros(len(texts) + 1, np.int64)
    if (letter < 0).any() or (letter > 63).any() or (letter[np.cumsum(length)[length > 0] - 1] & 32).any():
        raise ValueError("a compressed string that is cut off or has other characters than 0 to o")
    last = np.flatnonzero((letter & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    shift = 5 * (np.arange(last[-1] + 1) - np.repeat(first, last - first + 1))
    value = np.add.reduceat((letter[: last[-1] + 1] & 31) << np.minimum(shift, 58), first)
    negative = (letter[last] & 16) != 0
    value[negative] -= np.int64(1) << np.minimum(shift[last] + 5, 62)[negative]
    text = np.searchsorted(np.cumsum(length), first, side="right")
    start = np.searchsorted(text, np.arange(len(texts) + 1))
    return _accumulated(value, start), start


def _accumulated(value: IntArray, start: IntArray) -> IntArray:
    """Counts of differences: number k > 2 is added to number k - 2 of its mask."""
    place = np.arange(len(value)) - np.repeat(start[:-1], np.diff(start))
    mask = np.repeat(np.arange(len(start) - 1), np.diff(start))
    out = value.copy()
    for parity in (0, 1):
        chain = np.flatnonzero((place > 0) & (place % 2 == parity))
        if not len(chain):
            continue
        total = np.cumsum(value[chain])
        begins = np.flatnonzero(np.concatenate([[True], np.diff(mask[chain]) != 0]))
        before = np.repeat(total[begins] - value[chain][begins], np.diff(np.concatenate([begins, [len(chain)]])))
        out[chain] = total - before
    return out


def column_runs_to_spans(counts: IntArray, start: IntArray, height: int, width: int) -> Spans:
    """Row intervals of masks given as counts down the columns of an image, background first; sorted, owner = mask."""
    count = len(start) - 1
    box = np.tile(np.array([[0, 0, width, height]], np.int32), (count, 1))
    # To the core these are masks of an image with rows and columns exchanged.
    down = normalise(runs_to_spans(counts.astype(np.uint32), start, box))
    left = subtract(down, Spans(owner=down.owner, row=down.row + 1, start=down.start, stop=down.stop))
    right = subtract(down, Spans(owner=down.owner, row=down.row - 1, start=down.start, stop=down.stop))
    owner, row, first = _pixels(left, height, width)
    _, _, last = _pixels(right, height, width)
    return Spans(owner=owner, row=row, start=first, stop=last + 1)


def _pixels(down: Spans, height: int, width: int) -> tuple[IntArray, IntArray, IntArray]:
    """Owner, row and column of every pixel of column runs, sorted by them."""
    row, which = ragged_ranges(down.start, down.stop - down.start)
    key = (down.owner[which] * height + row) * width + down.row[which]
    key.sort()
    line, col = np.divmod(key, width)
    owner, row = np.divmod(line, height)
    return owner, row, col
