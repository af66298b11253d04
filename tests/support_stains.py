"""Fields of haematoxylin and eosin, composed of the same amounts with any stains, as scanners and recipes differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seggeo.io.stains import Stains

USUAL = Stains(white=(243.0, 241.0, 243.0), vectors=((0.65, 0.70, 0.29), (0.20, 0.90, 0.39)), maxima=(1.0, 0.6))
OTHER = Stains(white=(232.0, 222.0, 236.0), vectors=((0.80, 0.52, 0.30), (0.09, 0.88, 0.46)), maxima=(1.4, 1.1))


def amounts(shape: tuple[int, int], seed: int = 1) -> NDArray[np.float64]:
    """Amounts `(h, w, 2)` of the two stains, 0 to about 1: nuclei in tissue, glass in the left quarter and in holes."""
    rng = np.random.default_rng(seed)
    height, width = shape
    rows, cols = np.mgrid[:height, :width]
    eosin = 0.55 + 0.35 * np.sin(rows / 23 + seed) * np.cos(cols / 31)
    haematoxylin = np.full(shape, 0.04)
    for _ in range(height * width // 600):
        row, col, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(4, 8)
        place = np.s_[max(0, int(row) - 9) : int(row) + 10, max(0, int(col) - 9) : int(col) + 10]
        far = np.hypot(rows[place] - row, cols[place] - col)
        haematoxylin[place] = np.maximum(haematoxylin[place], rng.uniform(0.6, 1.0) * np.clip(radius - far + 1, 0, 1))
    eosin = np.where(haematoxylin > 0.3, 0.15 * eosin, eosin)
    glass = (cols < width // 4) | (np.hypot(rows - height // 2, cols - 3 * width // 4) < height // 8)
    return np.where(glass[..., None], 0.0, np.stack([haematoxylin, eosin], axis=2))


def composed(found: NDArray[np.float64], stains: Stains, noise: float = 1.0) -> NDArray[np.uint8]:
    """The picture `(h, w, 3)` of amounts, by Beer and Lambert's law, with a camera's noise."""
    density = (found * np.array(stains.maxima)) @ np.array(stains.vectors)
    image = (np.array(stains.white) + 1) * 10**-density - 1
    image += np.random.default_rng(7).normal(0, noise, image.shape)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
