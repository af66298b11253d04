"""A look at an array, as models and `--model auto` get one at a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Frame, Window
from seggeo.protocols import TileImage
from seggeo.tiling import Tile


@dataclass(frozen=True, kw_only=True)
class ArrayLook:
    """A `Look` whose overview is the whole array."""

    overview: TileImage
    frame: Frame
    bands: tuple[str, ...]

    def windows(self, side: int, count: int) -> list[TileImage]:
        """Windows in reading order."""
        height, width = self.overview.valid.shape
        places = [(r, c) for r in range(0, max(1, height - side + 1), side) for c in range(0, max(1, width - side + 1), side)]
        found = [piece(self.overview.image, self.overview.valid, (r, c), side) for r, c in places]
        return [tile for tile in found if tile.valid.any()][:count]


def piece(image: NDArray[Any], valid: NDArray[np.bool_], corner: tuple[int, int], side: int) -> TileImage:
    """A square of an array, cut at its edge, as a tile."""
    rows, cols = slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)
    seen = valid[rows, cols]
    window = Window(row=corner[0], col=corner[1], height=seen.shape[0], width=seen.shape[1])
    tile = Tile(index=0, z=0, row=0, col=0, core=window, window=window)
    return TileImage(image=image[rows, cols], valid=seen, tile=tile)


def look_at(
    image: NDArray[Any], valid: NDArray[np.bool_] | None = None, *, frame: Frame | None = None,
    bands: tuple[str, ...] = ("red", "green", "blue"),
) -> ArrayLook:  # fmt: skip
    """A look at `(h, w, c)`; without a frame it has no CRS."""
    real = np.ones(image.shape[:2], bool) if valid is None else valid
    height, width = real.shape
    whole = piece(image, real, (0, 0), max(height, width))
    return ArrayLook(overview=whole, frame=frame or Frame(height=height, width=width), bands=bands)
