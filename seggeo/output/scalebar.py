"""How long a picture's pixels are on the ground, and a bar of a round length for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, hypot, isfinite, log10

import pyproj

from seggeo.geometry import Frame, Window

_TO_METRES = {"m": 1.0, "mm": 1e-3, "um": 1e-6}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleBar:
    """A bar to draw under a picture."""

    length: float
    """Of the bar, in pixels of the work grid along a row."""
    text: str
    """What to write beside it: `200 m`, `50 um`, or `500 px` where the size on the ground is unknown."""


def scale_bar(frame: Frame, window: Window, most: float) -> ScaleBar:
    """The longest bar of a round length (1, 2 or 5 times a power of ten) that fits.

    Args:
        frame: The work grid.
        window: What the picture shows; the scale is that of its centre, on the ellipsoid.
        most: Longest bar, in pixels of the work grid.
    """
    metres = pixel_metres(frame, window)
    if metres is None:
        length = _round(most)
        return ScaleBar(length=length, text=f"{length:g} px")
    length_m = _round(most * metres)
    return ScaleBar(length=length_m / metres, text=_text(length_m))


def pixel_metres(frame: Frame, window: Window) -> float | None:
    """Metres on the ground of one step along a row at the centre of `window`; None where nobody knows."""
    if frame.crs is None:
        return frame.spacing[2] * _TO_METRES[frame.unit] if frame.unit in _TO_METRES else None
    row, col = window.row + window.height / 2, window.col + window.width / 2
    xs, ys = frame.pixel_to_world([row, row], [col - 0.5, col + 0.5])
    crs = pyproj.CRS.from_wkt(frame.crs)
    geodetic, geod = crs.geodetic_crs, crs.get_geod()
    if geodetic is None or geod is None:  # a local grid: no place on earth, but its axes have a unit
        return hypot(xs[1] - xs[0], ys[1] - ys[0]) * crs.axis_info[0].unit_conversion_factor if crs.axis_info else None
    lon, lat = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True).transform(xs, ys)
    metres = float(geod.inv(lon[0], lat[0], lon[1], lat[1])[2])
    return metres if isfinite(metres) and metres > 0 else None


def _round(most: float) -> float:
    power = 10.0 ** floor(log10(most))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= most)


def _text(metres: float) -> str:
    for unit, size in (("km", 1e3), ("m", 1.0), ("cm", 1e-2), ("mm", 1e-3), ("um", 1e-6)):
        if metres >= size * (1 - 1e-9):
            return f"{metres / size:g} {unit}"
    return f"{metres * 1e9:g} nm"
