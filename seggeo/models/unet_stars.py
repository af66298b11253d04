"""From fields to objects by star distances: the surest pixels draw their object's outline, and the best outlines stay.

1. `_peaks`: pixels surer than their neighbours, by seed times chance, speak for objects.
2. `_Rays.star`: such a pixel's object is what its rays reach, their lengths taken as linear in the angle between them; a
   disc is then a disc, however few rays there are.
3. `_kept`: best first, a star goes where its middle or much of it lies in a better one. A star meets only those on its own
   pixels, so that a million of them are never compared pair by pair.
4. Stars say whose a pixel is, the foreground which pixels are any object's: stars are cut to it, and what is left of
   it at their rim (`_grown`) is shared out among them.

Rays end where the network's context does and equal stars are taken by position, so that two windows with equal fields
give equal objects. After Schmidt et al. 2018 (StarDist).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.models.basins import Labels
from seggeo.models.unet_decode import Decoded, Decoding, settled
from seggeo.models.unet_fields import Fields

_RIM = 2
"""Pixels beyond its star that an object may reach: what lengths are off by, and chords of its rays cut away."""


def decode_stars(fields: Fields, d: Decoding) -> Decoded:
    """Objects of the fields of one window, as `decode` gives them.

    Args:
        fields: With at least one ray.
        d: Thresholds; `smooth` and `join` are of the votes alone.
    """
    chance = fields.chance.sum(axis=0)
    inside = chance > d.foreground
    strength = np.where(inside, fields.seed * chance, 0).astype(np.float32)
    row, col = _peaks(strength, d.peak)
    order = np.lexsort((col, row, -strength[row, col]))
    labels = _kept(row[order], col[order], fields.rays, d.nms)
    return settled(_grown(np.where(inside, labels, 0), inside), fields.chance, d)


def _peaks(strength: NDArray[np.float32], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns above `least` that no 8-neighbour exceeds; of equal neighbours the first in scan order."""
    padded = np.pad(strength, 1, constant_values=-1)
    height, width = strength.shape
    top = strength > max(least, 0)
    for row in (0, 1, 2):
        for col in (0, 1, 2):
            beside = padded[row : row + height, col : col + width]
            if (row, col) < (1, 1):
                top &= strength > beside
            elif (row, col) > (1, 1):
                top &= strength >= beside
    at_row, at_col = np.nonzero(top)
    return at_row, at_col


@dataclass(frozen=True, slots=True, kw_only=True)
class _Star:
    """Pixels around a peak; the box may hang over the window's sides, where nothing is painted."""

    row: int
    """Of the peak."""
    col: int
    mask: NDArray[np.bool_]
    """`(2r + 1, 2r + 1)` with the peak in the middle."""
    area: int

    @property
    def reach(self) -> int:
        """The r of the mask."""
        return len(self.mask) // 2

    def within(self, bounds: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """The mask's part in rows and columns `(row, col, row_stop, col_stop)`, which lie in its box."""
        row, col = self.row - self.reach, self.col - self.reach
        return self.mask[bounds[0] - row : bounds[2] - row, bounds[1] - col : bounds[3] - col]

    def shared(self, other: _Star) -> int:
        """Pixels of both."""
        r, s = self.reach, other.reach
        bounds = (
            max(self.row - r, other.row - s), max(self.col - r, other.col - s),
            min(self.row + r, other.row + s) + 1, min(self.col + r, other.col + s) + 1,
        )  # fmt: skip
        if bounds[0] >= bounds[2] or bounds[1] >= bounds[3]:
            return 0
        return int(np.count_nonzero(self.within(bounds) & other.within(bounds)))


class _Rays:
    """Turns lengths along rays into pixels: between which rays a pixel lies, for every way to it, is worked out once."""

    def __init__(self, rays: int, reach: int) -> None:
        step = np.arange(-reach, reach + 1)
        row, col = step[:, None], step[None]
        turn = np.arctan2(row, col) / (2 * np.pi) * rays % rays
        self._reach = reach
        self._before = np.floor(turn).astype(np.int16) % np.int16(rays)
        self._after = (self._before + np.int16(1)) % np.int16(rays)
        self._share = (turn - np.floor(turn)).astype(np.float32)
        self._away = np.hypot(row, col).astype(np.float32)

    def star(self, row: int, col: int, lengths: NDArray[np.float32]) -> _Star:
        """The star of a peak; a pixel belongs to it when its centre does."""
        reach = int(lengths.max())
        part = (slice(self._reach - reach, self._reach + reach + 1),) * 2
        before, after = lengths[self._before[part]], lengths[self._after[part]]
        mask = self._away[part] <= before + (after - before) * self._share[part]
        return _Star(row=row, col=col, mask=mask, area=int(np.count_nonzero(mask)))


def _kept(row: NDArray[np.int64], col: NDArray[np.int64], lengths: NDArray[np.float32], nms: float) -> Labels:
    """The stars of peaks, best first, that are not of one object with a better one; a pixel is the best one's."""
    labels = np.zeros(lengths.shape[1:], np.int32)
    rays = _Rays(len(lengths), int(lengths[:, row, col].max(initial=0)))
    stars: list[_Star] = []
    for r, c in zip(row.tolist(), col.tolist(), strict=True):
        if labels[r, c]:
            continue
        star = rays.star(r, c, lengths[:, r, c])
        bounds = _clipped(star, labels.shape)
        mask, under = star.within(bounds), labels[bounds[0] : bounds[2], bounds[1] : bounds[3]]
        better = [stars[i - 1] for i in np.unique(under[mask]).tolist() if i]
        # Of the smaller one, not of both: a bit of an object has a small IoU with all of it.
        if any(star.shared(other) > nms * min(star.area, other.area) for other in better):
            continue
        stars.append(star)
        under[mask & (under == 0)] = len(stars)
    return labels


def _clipped(star: _Star, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Rows and columns of a star's box within an array."""
    return (
        max(star.row - star.reach, 0), max(star.col - star.reach, 0),
        min(star.row + star.reach + 1, shape[0]), min(star.col + star.reach + 1, shape[1]),
    )  # fmt: skip


def _grown(labels: Labels, inside: NDArray[np.bool_]) -> Labels:
    """Labels `_RIM` px further into the foreground that has none; where two meet, up, left, right and down in this order."""
    padded = np.pad(labels, 1)
    width = padded.shape[1]
    flat = padded.ravel()
    row, col = np.nonzero(inside & (labels == 0))
    at = (row + 1) * width + col + 1
    for _ in range(_RIM):
        beside = np.stack([flat[at + step] for step in (-width, -1, 1, width)])
        first = (beside > 0).argmax(axis=0)
        flat[at] = beside[first, np.arange(len(at))]
        at = at[flat[at] == 0]
    return padded[1:-1, 1:-1]
