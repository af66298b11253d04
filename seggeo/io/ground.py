"""How large a pixel is on the ground.

Metres are what users mean by a GSD. A projected CRS whose metres are true to 2 % (UTM, state planes) is taken at its
word, so that `--gsd 0.3` leaves a 0.3 m file alone; where grid metres and ground metres differ more (Web Mercator away
from the equator) and for degrees, the geodesic size of the pixel at the scene's centre is used, for the whole scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite

import pyproj
from affine import Affine

_TRUE_TO = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSize:
    """Extent of one pixel along its rows and columns."""

    row: float
    """Distance between two rows."""
    col: float
    """Distance between two columns."""
    unit: str
    """m on the ground, or px where nothing is known of the CRS (then in CRS units)."""


def pixel_size(transform: Affine, crs: str | None, height: int, width: int) -> PixelSize:
    """Ground size of a pixel at the centre of an image with this transform and CRS (WKT)."""
    row, col = hypot(transform.b, transform.e), hypot(transform.a, transform.d)
    if crs is None:
        return PixelSize(row=row, col=col, unit="px")
    system = pyproj.CRS.from_wkt(crs)
    ground = _geodesic(transform, system, height, width)
    if system.is_geographic:
        return ground or PixelSize(row=row, col=col, unit="px")
    factor = system.axis_info[0].unit_conversion_factor if system.axis_info else 0.0
    if not system.is_projected or not factor:
        return PixelSize(row=row, col=col, unit="px")
    planar = PixelSize(row=row * factor, col=col * factor, unit="m")
    if ground is None or max(abs(ground.row / planar.row - 1), abs(ground.col / planar.col - 1)) <= _TRUE_TO:
        return planar
    return ground


def _geodesic(transform: Affine, system: pyproj.CRS, height: int, width: int) -> PixelSize | None:
    geodetic, geod = system.geodetic_crs, system.get_geod()
    if geodetic is None or geod is None:
        return None
    to_degrees = pyproj.Transformer.from_crs(system, geodetic, always_xy=True)
    rows = [height / 2 - 0.5, height / 2 + 0.5, height / 2, height / 2]
    cols = [width / 2, width / 2, width / 2 - 0.5, width / 2 + 0.5]
    t = transform
    xs = [t.a * c + t.b * r + t.c for r, c in zip(rows, cols, strict=True)]
    ys = [t.d * c + t.e * r + t.f for r, c in zip(rows, cols, strict=True)]
    lon, lat = to_degrees.transform(xs, ys)
    if not all(map(isfinite, [*lon, *lat])):
        return None
    row = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
    col = geod.inv(lon[2], lat[2], lon[3], lat[3])[2]
    return PixelSize(row=row, col=col, unit="m") if row > 0 and col > 0 else None
