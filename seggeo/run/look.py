"""A first look at a whole image, for what a model or the choice of one must know before any tile.

`SceneLook` shows the overview, and full-resolution windows spread over the scene: of a lattice of windows those that
hold data and more than plain background, each chosen as far as possible from those chosen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.geometry import Window
from seggeo.protocols import Pixels, TileImage
from seggeo.tiling import Tile

OVERVIEW_PX = 2048
"""Longest side of the overview that stretch, calibration and preview look at."""
_LATTICE = 64
"""Windows along each axis that are weighed against each other at most."""
_PER_SLICE = 5
"""Windows of one slice of a volume that are read to find one worth a look."""
_BUSY = 0.5
"""A window worth a look has this share of the contrast of the scene's busiest tenth, and of its fullest window's data."""


class SceneLook:
    """A `Look` at an open raster."""

    def __init__(self, source: image_io.AnySource, stretch: image_io.Stretch | None, overview: Pixels | None = None) -> None:
        """`stretch` None shows native values; `overview` is the source's, where it has been made already."""
        self.frame = source.frame
        self.bands = source.bands
        self._source = source
        self._stretch = stretch
        self._given = overview

    @cached_property
    def overview(self) -> TileImage:
        """The whole image in at most `OVERVIEW_PX` px a side."""
        pixels = self._given or self._source.overview(OVERVIEW_PX)
        return self._shown(pixels, Window(row=0, col=0, height=pixels.valid.shape[0], width=pixels.valid.shape[1]))

    def windows(self, side: int, count: int) -> list[TileImage]:
        """Up to `count` windows of `side` px with data in them, the most instructive spread first; see `Look.windows`."""
        if self.frame.depth > 1:
            return self._slices(side, count)
        found: list[TileImage] = []
        for window in spread(candidates(self.frame.window, side), self.overview, self.frame.window):
            if len(found) >= count:
                break
            pixels = self._source.read(window)
            if pixels.valid.any():
                found.append(self._shown(pixels, window))
        return found

    def _slices(self, side: int, count: int) -> list[TileImage]:
        """Of a volume: windows of slices evenly spread over it, in each the one of most contrast among a few."""
        found: list[TileImage] = []
        for i in range(count):
            z = int((i + 0.5) * self.frame.depth / count)
            images = [self._shown(self._source.read(w, z), w, z) for w in _few(candidates(self.frame.window, side))]
            best = max(images, key=lambda image: float(image.image[image.valid].std()) if image.valid.any() else -1.0)
            if best.valid.any() and z not in {image.tile.z for image in found}:
                found.append(best)
        return found

    def _shown(self, pixels: Pixels, window: Window, z: int = 0) -> TileImage:
        image = pixels.data if self._stretch is None else image_io.apply_stretch(self._stretch, pixels)
        return TileImage(
            image=image, valid=pixels.valid, tile=Tile(index=0, z=z, row=0, col=0, core=window, window=window)
        )  # fmt: skip


def _few(windows: list[Window]) -> list[Window]:
    """At most `_PER_SLICE` of them, evenly spread."""
    return [windows[int((i + 0.5) * len(windows) / n)] for n in (min(len(windows), _PER_SLICE),) for i in range(n)]


def candidates(whole: Window, side: int) -> list[Window]:
    """A lattice of windows of `side` px that do not overlap, at most 64 x 64, evenly over the whole."""
    rows, cols = (_starts(length, side) for length in whole.shape)
    height, width = min(side, whole.height), min(side, whole.width)
    return [Window(row=row, col=col, height=height, width=width) for row in rows for col in cols]


def spread(windows: list[Window], overview: TileImage, whole: Window) -> Iterator[Window]:
    """Windows worth a look, the next always the one farthest from those before; the first is the most central.

    Args:
        windows: Of the work grid.
        overview: The whole image decimated.
        whole: The work grid.
    """
    share, contrast = _weighed(windows, overview, whole)
    worth = (share > 0) & (share >= _BUSY * share.max(initial=0))
    if worth.any():
        worth &= contrast >= _BUSY * np.percentile(contrast[worth], 90)
    chosen = [window for window, is_worth in zip(windows, worth, strict=True) if is_worth]
    centre = np.array([(w.row + w.height / 2, w.col + w.width / 2) for w in chosen]).reshape(-1, 2)
    if not chosen:
        return
    following = int(np.argmin(((centre - centre.mean(axis=0)) ** 2).sum(axis=1)))
    distance = np.full(len(chosen), np.inf)
    for _ in chosen:
        yield chosen[following]
        distance = np.minimum(distance, ((centre - centre[following]) ** 2).sum(axis=1))
        following = int(np.argmax(distance))


def _starts(length: int, side: int) -> list[int]:
    count = max(1, min(_LATTICE, length // side))
    if count == 1:
        return [max(0, (length - side) // 2)]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _weighed(windows: list[Window], overview: TileImage, whole: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of valid pixels and standard deviation of the valid ones' brightness, each `(n,)`, as the overview shows them."""
    height, width = overview.valid.shape
    down, right = height / whole.height, width / whole.width
    gray = np.where(overview.valid, overview.image.mean(axis=2, dtype=np.float64), 0.0)
    share, contrast = np.zeros(len(windows)), np.zeros(len(windows))
    for i, w in enumerate(windows):
        row, col = int(w.row * down), int(w.col * right)
        # Where a window is less than a few pixels of the overview, its neighbourhood speaks for it.
        rows, cols = (max(4, round(n)) for n in (w.height * down, w.width * right))
        place = np.s_[max(0, min(row, height - rows)) : row + rows, max(0, min(col, width - cols)) : col + cols]
        valid = overview.valid[place]
        share[i] = valid.mean()
        contrast[i] = gray[place][valid].std() if valid.any() else 0.0
    return share, contrast
