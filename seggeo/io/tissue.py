"""Where a slide shows tissue: found on the overview, once for the whole job; the rest is glass and is never read.

Brightfield: absorbed light against the slide's own white, a little smoothed; the limit is Otsu's between tissue and glass,
but never so high that pale tissue of a slide without glass would count as glass. Fluorescence: what is brighter than the
dark ground and its noise. Holes are filled and a margin is added, because the overview shows less than the slide does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.geometry import Frame, Window
from seggeo.protocols import Pixels

Mask = NDArray[np.bool_]

_WHITE = 120
"""Least gray value, 0 to 255, of the bright ground of brightfield."""
_DENSITY_LIMITS = (0.03, 0.12)
"""Range, decimal optical density, in which the limit between glass and tissue is looked for."""
_NOISE = 4.0
"""Fluorescence: standard deviations above the dark ground."""
_ASSUMED_UM = 0.5
"""Side of a pixel where the slide does not say."""
_FIELD_UM = 500.0
"""An image no longer than this is a field of view, chosen by someone for what it shows: all of it counts."""
_GRAIN_UM = 8.0
"""Sigma of the smoothing: tissue is looked for, not cells."""
_DUST_UM2 = 2_500.0
"""Specks below this area are dust."""
_HOLE_UM2 = 20_000.0
"""Holes below this area are vessels and tears, and belong to the tissue."""
_MARGIN_UM = 25.0
"""Added on every side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """A mask of the work grid at the overview's resolution."""

    mask: Mask
    """`(h, w)`, True where cells are looked for: tissue with a margin."""
    body: Mask
    """`(h, w)`, the tissue without the margin: what areas and densities count."""
    shape: tuple[int, int]
    """Rows and columns of the work grid."""
    kind: str
    """brightfield, fluorescence, all (nothing told tissue from ground), or drawn (given by the user)."""

    @property
    def share(self) -> float:
        """Tissue's part of the slide, 0 to 1."""
        return float(self.body.mean())

    def area(self, frame: Frame) -> float:
        """In square units of the frame (um2 for a slide of known resolution, else px)."""
        return self.share * frame.height * frame.width * frame.spacing[1] * frame.spacing[2]

    def read(self, window: Window) -> Mask:
        """The mask of a window of the work grid; a pixel asks the mask's pixel that its centre lies in."""
        rows, cols = self._places(window)
        return self.mask[np.ix_(rows, cols)]

    def is_empty(self, window: Window) -> bool:
        """True when no pixel of a window is tissue."""
        rows, cols = self._places(window)
        return not self.mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].any()

    def _places(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        pairs = zip((window.row, window.col), window.shape, self.mask.shape, self.shape, strict=True)
        rows, cols = (((np.arange(first, first + n) + 0.5) * have / full).astype(np.int64) for first, n, have, full in pairs)
        return rows, cols


def find_tissue(overview: Pixels, frame: Frame) -> Tissue:
    """Tissue on a slide.

    Args:
        overview: The whole work grid decimated, `(h, w, c)`; only valid pixels count.
        frame: The work grid.
    """
    valid, pixel = overview.valid, _pixel_um(overview, frame)
    values = overview.data.astype(np.float32)
    kind, inside, near = "all", valid, valid
    if valid.any() and pixel * max(valid.shape) > _FIELD_UM:
        is_bright = is_brightfield(overview)
        find = _stained if is_bright else _glowing
        found = _tidied(find(values, valid, max(1.5, _GRAIN_UM / pixel)), pixel) & valid
        if found.any():
            kind, inside = "brightfield" if is_bright else "fluorescence", found
            near = np.asarray(ndimage.distance_transform_edt(~found) <= max(1.0, _MARGIN_UM / pixel)) & valid
    return Tissue(mask=near, body=inside, shape=frame.window.shape, kind=kind)


def is_brightfield(overview: Pixels) -> bool:
    """True for 8-bit colour on light ground."""
    data, valid = overview.data, overview.valid
    if data.dtype != np.uint8 or data.shape[2] < 3 or not valid.any():
        return False
    return bool(np.percentile(data[valid].mean(axis=1), 90) >= _WHITE)


def _pixel_um(overview: Pixels, frame: Frame) -> float:
    """Side of a pixel of the overview."""
    own = float(np.sqrt(frame.spacing[1] * frame.spacing[2])) if frame.unit == "um" else _ASSUMED_UM
    return float(own * frame.height / overview.valid.shape[0])


def _stained(values: NDArray[np.float32], valid: Mask, sigma: float) -> Mask:
    """Where light is absorbed: mean decimal optical density of the bands against the slide's white."""
    from skimage.filters import threshold_otsu  # slow to import, and most images are not of tissue

    white = np.percentile(values[valid], 98, axis=0)
    density = np.log10((white + 1) / (np.minimum(values, white) + 1)).mean(axis=2)
    smooth = ndimage.gaussian_filter(np.where(valid, density, 0), sigma)
    seen = smooth[valid]
    limit = float(threshold_otsu(np.minimum(seen, 1.0))) if np.ptp(seen) > 0 else np.inf  # type: ignore[no-untyped-call]
    return np.asarray(smooth > np.clip(limit, *_DENSITY_LIMITS)) & valid


def _glowing(values: NDArray[np.float32], valid: Mask, sigma: float) -> Mask:
    """What is brighter than the dark ground in any band."""
    found = np.zeros(valid.shape, np.bool_)
    for band in np.moveaxis(values, 2, 0):
        smooth = ndimage.gaussian_filter(np.where(valid, band, 0), sigma)
        seen = smooth[valid]
        ground = float(np.percentile(seen, 5))
        low = seen[seen <= np.median(seen)]
        noise = 1.4826 * float(np.median(np.abs(low - np.median(low))))
        if np.ptp(seen) > 0:
            found |= smooth > max(ground + _NOISE * noise, ground + 0.01 * (float(seen.max()) - ground))
    return found & valid


def _tidied(found: Mask, pixel: float) -> Mask:
    """Without dust and without small holes."""
    found = _without_small(found, _DUST_UM2 / pixel**2)
    return ~_without_small(~found, _HOLE_UM2 / pixel**2)


def _without_small(mask: Mask, least: float) -> Mask:
    labels, count = ndimage.label(mask)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    keep = area >= least
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)
