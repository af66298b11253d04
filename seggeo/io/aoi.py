"""An area of interest: polygons of a vector file, in any CRS, as a mask of the work grid.

Edges are given extra vertices before they are reprojected, because a straight line of one CRS is a curve in another.
The mask is made in fixed squares of the grid, so that a pixel on the border gets the same answer from every window.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from seggeo.errors import ConfigError, GeometryError
from seggeo.geometry import Frame, Window
from seggeo.io.checks import read_header

_SIDE = 512
_KEPT = 128
"""Squares kept, 256 KiB each."""
_PARTS = 1000
"""Edges are cut to this share of the area's extent: the error of a straight piece falls with its square."""


def load_aoi(path: Path, crs: str | None) -> Any:
    """One valid (multi)polygon of all areas in a vector file, in `crs` (WKT, or None for the image's own coordinates).

    Raises:
        ConfigError: No polygons in it, no CRS where one is needed, or not a vector file.
    """
    import pyogrio  # 70 MB in every process, where few jobs have an area
    from pyogrio.errors import DataSourceError

    if b"OGRVRTDataSource" in read_header(str(path)):
        raise ConfigError(what=f"the AOI {path} is an OGR VRT", why="it can name any other file", mend="give a GPKG or GeoJSON")
    try:
        meta, _, geometry, _ = pyogrio.raw.read(str(path.absolute()), columns=[])
    except DataSourceError as error:
        raise ConfigError(what=f"the AOI {path} cannot be read", why=str(error), mend="give a GPKG or GeoJSON") from error
    shapes = shapely.make_valid(shapely.force_2d(shapely.from_wkb(geometry))) if geometry is not None else np.array([])
    shapes = shapes[~(shapely.is_empty(shapes) | shapely.is_missing(shapes))]
    area = shapely.union_all(_to_crs(shapes, meta["crs"], crs, path))
    if shapely.area(area) <= 0:
        raise ConfigError(
            what=f"the AOI {path} holds no polygons", why=f"{len(shapes)} shapes without area", mend="draw a polygon"
        )
    return area


def _to_crs(shapes: NDArray[Any], own: str | None, crs: str | None, path: Path) -> NDArray[Any]:
    if crs is None and own is None:
        return shapes
    if own is None or crs is None:
        raise ConfigError(
            what=f"the AOI {path} cannot be laid over the image",
            why=f"the {'AOI' if own is None else 'image'} has no CRS",
            mend="give both a CRS (ogr2ogr -a_srs, gdal_edit -a_srs), or neither",
        )
    source, target = pyproj.CRS.from_user_input(own), pyproj.CRS.from_wkt(crs)
    if source == target or not len(shapes):
        return shapes
    west, south, east, north = shapely.total_bounds(shapes)
    dense = shapely.segmentize(shapes, max(east - west, north - south) / _PARTS)
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
    moved = shapely.transform(dense, lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise ConfigError(
            what=f"the AOI {path} lies outside the world of the image's CRS",
            why=f"its corners cannot be expressed in {target.name}",
            mend="clip the AOI to the region of the image",
        )
    return shapely.make_valid(moved)  # type: ignore[no-any-return]


class AoiMask:
    """Where the work grid lies in an area; a pixel counts by its centre."""

    def __init__(self, area: Any, frame: Frame) -> None:
        rows_cols = shapely.transform(area, lambda xy: np.stack(frame.world_to_pixel(xy[:, 0], xy[:, 1])[::-1], axis=1))
        self._area = shapely.make_valid(rows_cols)
        shapely.prepare(self._area)
        self._frame = frame
        self._squares: OrderedDict[tuple[int, int], NDArray[np.bool_] | bool] = OrderedDict()

    def read(self, window: Window) -> NDArray[np.bool_]:
        """`(h, w)`, True inside."""
        mask = np.empty(window.shape, np.bool_)
        for square in self._covering(window):
            part = square.intersect(window)
            if part is None:
                raise GeometryError(what=f"window {window} is outside the grid", why="a bug", mend="report it")
            inside = self._square(square)
            mask[part.slices(window)] = inside if isinstance(inside, bool) else inside[part.slices(square)]
        return mask

    def is_empty(self, window: Window) -> bool:
        """True when no pixel of a window lies inside."""
        return not shapely.intersects(self._area, _box(window)) or not self.read(window).any()

    def meets(self) -> bool:
        """True when the area and the image share at least an edge."""
        return bool(shapely.intersects(self._area, _box(self._frame.window)))

    def _covering(self, window: Window) -> list[Window]:
        rows = range(window.row // _SIDE * _SIDE, window.row_stop, _SIDE)
        cols = range(window.col // _SIDE * _SIDE, window.col_stop, _SIDE)
        return [Window(row=row, col=col, height=_SIDE, width=_SIDE) for row in rows for col in cols]

    def _square(self, square: Window) -> NDArray[np.bool_] | bool:
        key = square.row, square.col
        if key not in self._squares:
            self._squares[key] = self._rasterize(square)
            if len(self._squares) > _KEPT:
                self._squares.popitem(last=False)
        self._squares.move_to_end(key)
        return self._squares[key]

    def _rasterize(self, square: Window) -> NDArray[np.bool_] | bool:
        box = _box(square)
        if not shapely.intersects(self._area, box):
            return False
        if shapely.contains_properly(self._area, box):
            return True
        # One pixel more on every side: cutting must not put a new edge onto the centres of border pixels.
        near = shapely.clip_by_rect(self._area, square.col - 1, square.row - 1, square.col_stop + 1, square.row_stop + 1)
        polygons = [p for p in shapely.get_parts(shapely.get_parts(near)) if shapely.area(p) > 0]
        if not polygons:
            return False
        offset = Affine.translation(square.col, square.row)
        return rasterize(polygons, out_shape=square.shape, transform=offset, dtype="uint8").astype(bool)  # type: ignore[no-any-return]


def _box(window: Window) -> Any:
    return shapely.box(window.col, window.row, window.col_stop, window.row_stop)
