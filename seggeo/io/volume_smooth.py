"""Noise of a volume: how much there is, and a Gaussian in all three directions that takes most of it.

Networks that learnt on clean slices find little in a noisy stack. A voxel's neighbours in the slices before and after show
the same object, so that averaging over a few voxels costs less detail than it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.geometry import Window

NOISY = 0.06
"""Noise, as a share of the contrast, above which a volume is smoothed unless told otherwise."""
WANTED = 0.035
"""What is to be left of it, by smoothing within a slice alone."""
MOST = 2.0
"""Widest Gaussian that is chosen, px."""
_REACH = 3.0
_LEAST = 0.3
"""Narrowest Gaussian along z that is worth reading more slices for, in slices."""
FloatArray = NDArray[np.float32]
Plane = Callable[[Window, int], tuple[NDArray[Any], NDArray[np.bool_]]]
"""Values and validity, each `(h, w)`, of a window of a slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """A Gaussian: sigma in voxels along z, and along rows and columns."""

    z: float
    pixel: float

    @classmethod
    def of(cls, sigma: float, spacing: tuple[float, float, float], *, is_series: bool) -> Smoothing:
        """Of `sigma` pixels, as long along z in the world; frames in time are not mixed."""
        along = sigma * sqrt(spacing[1] * spacing[2]) / spacing[0]
        return cls(z=0.0 if is_series or along < _LEAST else along, pixel=sigma)

    @property
    def slices(self) -> int:
        """Slices before and after that count."""
        return ceil(_REACH * self.z)

    @property
    def margin(self) -> int:
        """Pixels around a window that count."""
        return ceil(_REACH * self.pixel)

    def apply(self, plane: Plane, window: Window, z: int, *, within: tuple[int, Window]) -> FloatArray:
        """A smoothed window of slice `z`, `(h, w)`; what is no data has no weight.

        Args:
            plane: Reads the volume.
            window: What is wanted.
            z: The slice.
            within: Slices of the volume, and the window of a whole slice; what lies outside has no weight either.
        """
        depth, whole = within
        wide = window.grow(self.margin, within=whole)
        total, weight = np.zeros(wide.shape, np.float32), np.zeros(wide.shape, np.float32)
        for step in range(-self.slices, self.slices + 1):
            if 0 <= z + step < depth:
                share = np.float32(1.0 if step == 0 else np.exp(-0.5 * (step / self.z) ** 2))
                values, valid = plane(wide, z + step)
                total += share * np.where(valid, values, 0).astype(np.float32)
                weight += share * valid
        for axis in (0, 1):
            total, weight = (
                ndimage.gaussian_filter1d(one, self.pixel, axis, mode="constant", radius=self.margin) for one in (total, weight)
            )
        inner = window.slices(wide)
        return np.divide(total[inner], weight[inner], out=np.zeros(window.shape, np.float32), where=weight[inner] > 0)


def smoothing_for(slices: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> float:
    """Sigma, px, that a volume wants; 0 for one with little noise.

    Noise is what the Laplacian difference of Immerkaer (1996) leaves, which is blind to smooth shading; contrast is the
    distance of the 5th and the 99th percentile after smoothing. The median slice speaks for the volume.

    Args:
        slices: Some whole slices or windows of them: values and validity, `(h, w)`.
    """
    ratios = [_noise_ratio(values, valid) for values, valid in slices if valid.any() and min(values.shape) >= 16]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known or float(np.median(known)) < NOISY:
        return 0.0
    return round(min(MOST, float(np.median(known)) / (2 * sqrt(pi) * WANTED)), 2)


def _noise_ratio(values: NDArray[Any], valid: NDArray[np.bool_]) -> float | None:
    image = np.where(valid, values, values[valid].mean()).astype(np.float32)
    rows = image[:-2] - 2 * image[1:-1] + image[2:]
    both = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    noise = float(np.abs(both).mean()) * sqrt(pi / 2) / 6
    low, high = np.percentile(ndimage.gaussian_filter(image, MOST)[valid], [5, 99])
    return noise / float(high - low) if high > low else None
