"""Polygons of a vector file as masks of a frame.

1. `read_table` reads geometries, ids, scores and classes: GeoParquet through Arrow, everything else through GDAL.
2. Portions of features are made valid, brought into the frame's CRS, then into pixels (`_outlines`).
3. `annotations_scanline.fill` turns them into runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances, concat
from seggeo.io.annotations_record import Annotations
from seggeo.io.annotations_scanline import Outlines, fill
from seggeo.io.annotations_table import Table, read_table
from seggeo.rle import Spans, normalise

_PORTION = 100_000
"""Features that are geometries at one time."""


def read_polygons(path: Path, frame: Frame | None, *, attribute: str | None) -> Annotations:
    """The polygons of a vector file that hold a pixel centre of `frame`.

    Raises:
        ConfigError: No frame, a missing column, or one of file and frame has no CRS.
        SourceError: The file cannot be read, or holds no polygons.
    """
    if frame is None:
        raise ConfigError(
            what=f"the polygons of {path} need an image",
            why="a vector file has no pixels, so it does not say what grid to draw them on",
            mend="give the image they belong to, or a label raster instead",
        )
    table = read_table(path, attribute)
    way = _Way.between(table, frame, path)
    batches: list[_Portion] = [_portion(part, way, frame, path) for part in _portions(table.geometry)]
    kept = np.concatenate([b.kept + i * _PORTION for i, b in enumerate(batches)]) if batches else np.zeros(0, np.int64)
    instances = concat([b.instances for b in batches])
    score = np.ones(len(kept)) if table.score is None else table.score[kept]
    return Annotations(
        instances=replace(instances, label=table.label[kept], score=score.astype(np.float32)), ids=table.ids[kept],
        classes=table.classes, scored=table.score is not None, exclusive=False, frame=frame,
        crowd=np.zeros(len(kept), np.bool_), outside=sum(b.outside for b in batches), tiny=sum(b.tiny for b in batches),
        reprojected=way.name,
    )  # fmt: skip


def read_area(path: Path, frame: Frame) -> Spans:
    """The pixels of a frame whose centres lie in any polygon of a vector file, as row intervals sorted by row.

    Raises:
        ConfigError: One of file and frame has no CRS, or they do not meet.
        SourceError: The file cannot be read, or holds no polygons.
    """
    area = read_polygons(path, frame, attribute=None)
    if not len(area):
        raise ConfigError(
            what=f"the AOI {path} does not meet the image",
            why=f"{area.outside} polygons lie outside it",
            mend="check that both show the same place (seggeo info)",
        )
    spans = area.instances.spans()
    return normalise(Spans(owner=np.zeros(len(spans), np.int64), row=spans.row, start=spans.start, stop=spans.stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Portion:
    instances: Instances
    kept: NDArray[np.int64]
    outside: int
    tiny: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """From the file's coordinates to the frame's world."""

    transformer: pyproj.Transformer | None
    name: str = ""
    """The file's CRS when it is another."""
    meridian: float | None = None
    """Longitude of the frame's centre where x is a longitude: 181 and -179 are one place."""
    turn: float = 360.0

    @classmethod
    def between(cls, table: Table, frame: Frame, path: Path) -> _Way:
        own = None if table.crs is None else pyproj.CRS.from_user_input(table.crs)
        if own is not None and frame.crs is None and (table.crs_is_implied or own.type_name == "Engineering CRS"):
            # GeoJSON cannot say that its coordinates are pixels, and those of an image without CRS can be no other; a
            # GeoPackage without CRS names an "undefined" one.
            own = None
        if own is None and frame.crs is None:
            return cls(transformer=None)
        if own is None or frame.crs is None:
            raise ConfigError(
                what=f"the polygons of {path} cannot be laid over the image",
                why=f"the {'vector file' if own is None else 'image'} has no CRS",
                mend="give both a CRS (ogr2ogr -a_srs, gdal_edit -a_srs), or neither",
            )
        target = pyproj.CRS.from_wkt(frame.crs)
        same = own.equals(target, ignore_axis_order=True)
        unit = target.axis_info[0].unit_conversion_factor if target.is_geographic else 0.0
        return cls(
            transformer=None if same else pyproj.Transformer.from_crs(own, target, always_xy=True),
            name="" if same else own.name, turn=2 * np.pi / unit if unit else 360.0,
            meridian=float(frame.pixel_to_world(frame.height / 2, frame.width / 2)[0]) if unit else None,
        )  # fmt: skip

    def go(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.transformer is not None:
            xy = np.stack(self.transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
        if self.meridian is not None:
            xy = xy - np.stack([self.turn * np.rint((xy[:, 0] - self.meridian) / self.turn), np.zeros(len(xy))], axis=1)
        return xy


def _portions(geometry: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (geometry[i : i + _PORTION] for i in range(0, len(geometry), _PORTION))


def _portion(wkb: NDArray[Any], way: _Way, frame: Frame, path: Path) -> _Portion:
    shapes = _polygons(wkb, path)
    outlines = _outlines(shapes, way, frame)
    instances, kept = fill(outlines, frame.height, frame.width)
    empty = np.ones(len(shapes), np.bool_)
    empty[kept] = False
    inside = _meets(outlines, frame) & empty
    return _Portion(
        instances=instances, kept=kept, tiny=int(inside.sum()), outside=int((empty & ~inside).sum())
    )  # fmt: skip


def _polygons(wkb: NDArray[Any], path: Path) -> NDArray[Any]:
    """One valid polygon or multipolygon per feature, None where a feature has no area."""
    try:
        shapes = shapely.force_2d(shapely.from_wkb(wkb))
    except shapely.errors.GEOSException as error:
        raise SourceError(
            what=f"{path} holds shapes that cannot be read",
            why=str(error),
            mend="write plain polygons: ogr2ogr -nlt MULTIPOLYGON",
        ) from error
    wrong = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    shapes[wrong] = shapely.make_valid(shapes[wrong])
    kind = shapely.get_type_id(shapes)
    for i in np.flatnonzero(kind == 7):  # what make_valid leaves of a bow tie with a spike: polygons and lines
        parts = [p for p in shapely.get_parts(shapely.get_parts(shapes[i])) if p.geom_type == "Polygon"]
        shapes[i] = shapely.multipolygons(parts)
    shapes[~np.isin(shapely.get_type_id(shapes), (3, 6)) | shapely.is_empty(shapes)] = None
    if len(shapes) and shapely.is_missing(shapes).all():
        names = sorted({shapely.GeometryType(int(k)).name for k in np.unique(kind)})
        raise SourceError(
            what=f"{path} holds no polygons", why=f"its shapes are {', '.join(names)}", mend="give the outlines of the objects"
        )
    return shapes  # type: ignore[no-any-return]


def _outlines(shapes: NDArray[Any], way: _Way, frame: Frame) -> Outlines:
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rings, polygon = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    row, col = frame.world_to_pixel(*way.go(xy).T)
    lost = ~(np.isfinite(row) & np.isfinite(col))
    # A vertex that the frame's CRS cannot express takes its ring out of the image, it does not bend it.
    gone = np.zeros(len(rings), np.bool_)
    gone[ring[lost]] = True
    row[gone[ring]], col[gone[ring]] = -1.0, -1.0
    return Outlines(
        row=row, col=col, ring=_offsets(ring, len(rings)), polygon=_offsets(polygon, len(parts)),
        owner=_offsets(owner, len(shapes)),
    )  # fmt: skip


def _offsets(index: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.searchsorted(index, np.arange(count + 1)).astype(np.int64)


def _meets(outlines: Outlines, frame: Frame) -> NDArray[np.bool_]:
    """Whether the box of each object shares area with the frame."""
    first = outlines.ring[outlines.polygon[outlines.owner]]
    inside = np.zeros(len(first) - 1, np.bool_)
    some = np.flatnonzero(np.diff(first))
    if len(some):
        at = first[:-1][some]
        low_row, high_row = np.minimum.reduceat(outlines.row, at), np.maximum.reduceat(outlines.row, at)
        low_col, high_col = np.minimum.reduceat(outlines.col, at), np.maximum.reduceat(outlines.col, at)
        inside[some] = (low_row < frame.height) & (high_row > 0) & (low_col < frame.width) & (high_col > 0)
    return inside
