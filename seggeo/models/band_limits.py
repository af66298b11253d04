"""Which values of each band become 0 and 1, for models that take a file's own bands and learnt from stretched ones.

Found once for a job in the overview of the whole image, as `--stretch` is for RGB models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.protocols import TileImage

Limits = tuple[tuple[float, ...], tuple[float, ...]]


def limits_of(overview: TileImage, stretch: str) -> Limits:
    """Values that become 0 and values that become 1, one per band, in the file's own units.

    Args:
        overview: The whole image decimated, native; only its valid pixels count.
        stretch: In `--stretch`'s words, as the weights say: auto, none, minmax, percent:LOW,HIGH or LOW,HIGH.
    """
    image, bands = overview.image, overview.image.shape[2]
    kind = ("none" if image.dtype == np.uint8 else "percent:2,98") if stretch == "auto" else stretch
    if kind == "none":
        return (0.0,) * bands, (255.0,) * bands
    if kind == "minmax" or kind.startswith("percent:"):
        low, high = (0.0, 100.0) if kind == "minmax" else _pair(kind.removeprefix("percent:"))
        return _percentiles(image[overview.valid], low, high)
    low, high = _pair(kind)
    return (low,) * bands, (high,) * bands


def _percentiles(values: NDArray[Any], low: float, high: float) -> Limits:
    """Percentiles of pixels `(n, bands)`; 0 and 1 where there are none."""
    bands = values.shape[1]
    if not len(values):
        return (0.0,) * bands, (1.0,) * bands
    found = np.percentile(values.astype(np.float64), [low, high], axis=0)
    return tuple(map(float, found[0])), tuple(map(float, found[1]))


def _pair(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(","))
    return low, high
