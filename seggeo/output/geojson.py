"""GeoJSON as RFC 7946 wants it: longitude and latitude, exteriors counter-clockwise, nothing across the antimeridian; streamed.

1. `_LonLat.project` takes outlines to EPSG:4326 and makes longitudes run on across 180 degrees instead of jumping.
2. `_split` cuts those that reach beyond 180 degrees in two; those around a pole are closed over the pole first.
3. `_geometries` spells coordinates with three digits more than a pixel needs.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil, log10
from pathlib import Path
from typing import IO

import numpy as np
import pyproj
import shapely

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.features import Features, class_names, iter_features, provenance_text
from seggeo.output.polygons import FloatArray, Polygons, from_shapely, join, oriented
from seggeo.protocols import Result, SinkOptions

_TURN = 360.0


def write_geojson(result: Result, path: Path, options: SinkOptions) -> Path:
    """A FeatureCollection in EPSG:4326; gzipped when `path` ends in `.gz`.

    `cx`, `cy` and the bounding box are in degrees too; `xmin` is greater than `xmax` where an object crosses the antimeridian.
    Without a CRS coordinates are those of `frame.transform` and the member `seggeo.coordinates` says so. The provenance is
    in `seggeo.provenance`.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    way = _LonLat.of(result.frame)
    with publishing(path, options.scratch) as temporary, ExitStack() as stack:
        out: IO[bytes] | gzip.GzipFile = stack.enter_context(temporary.open("wb"))
        if path.suffix == ".gz":  # no name and no time in the header: the same bytes every time
            out = stack.enter_context(gzip.GzipFile("", "wb", 6, out, mtime=0))
        out.write(_head(result, way).encode())
        between = b"\n"
        for features in iter_features(result, options.simplify_m):
            for line in _lines(features, result, way):
                out.write(between)
                out.write(line.encode())
                between = b",\n"
        out.write(b"\n]}\n")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class _LonLat:
    """The way from a frame's world to longitude and latitude."""

    transformer: pyproj.Transformer
    degrees: float
    """Degrees in one unit of x where x is a longitude that may run beyond 180; 0 in projected systems."""
    decimals: int

    @classmethod
    def of(cls, frame: Frame) -> _LonLat | None:
        """None where the CRS is missing or not tied to the ground."""
        crs = None if frame.crs is None else pyproj.CRS.from_user_input(frame.crs)
        if crs is None or not (crs.is_geographic or crs.is_projected):
            return None
        unit = float(crs.axis_info[0].unit_conversion_factor)
        degrees = float(np.degrees(unit)) if crs.is_geographic else 0.0
        pixel = np.sqrt(abs(frame.determinant)) * (degrees or unit / 111_320)
        decimals = min(max(ceil(-log10(pixel)) + 3, 7), 13)  # a thousandth of a pixel; never coarser than a centimetre
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        return cls(transformer=transformer, degrees=degrees, decimals=decimals)

    def project(self, world: Polygons) -> Polygons:
        """Outlines in degrees; longitudes run on within each object and begin between -180 and 180."""
        x, y = world.xy.T
        lon, lat = self._degrees(x, y)
        first = world.mask_vertex_start[:-1]
        size = np.diff(world.mask_vertex_start)
        if self.degrees:
            along = x * self.degrees
        else:  # vertices are neighbours on the ground, so each longitude lies less than half a turn from the one before
            turn = np.diff(lon, prepend=lon[:1])
            along = np.cumsum(np.where(np.isfinite(turn), turn - _TURN * np.rint(turn / _TURN), 0.0))
            along += np.repeat(lon[first] - along[first], size)
        lon = lon + _TURN * np.rint((along - lon) / _TURN)
        west = np.minimum.reduceat(lon, first)
        lon = lon - np.repeat(_TURN * np.floor((west + 180) / _TURN), size)
        return oriented(replace(world, xy=np.stack([lon, lat], axis=1)))

    def points(self, xy: FloatArray) -> FloatArray:
        """Longitude from -180 to 180, and latitude, of world points `(n, 2)`."""
        lon, lat = self._degrees(*xy.T)
        return np.stack([lon - _TURN * np.floor((lon + 180) / _TURN), lat], axis=1)

    def _degrees(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Longitude and latitude, NaN where the projection has no inverse."""
        lon, lat = self.transformer.transform(x, y)
        return np.where(np.isfinite(lon), lon, np.nan), np.where(np.isfinite(lat), lat, np.nan)


def _head(result: Result, way: _LonLat | None) -> str:
    place = "longitude and latitude, EPSG:4326" if way else "no coordinate reference system: image coordinates, x right, y down"
    if way is None and not result.frame.transform.is_identity:
        place = "no coordinate reference system: units of the image's transform"
    about = {"coordinates": place, "provenance": json.loads(provenance_text(result))}
    return f'{{"type":"FeatureCollection","name":"objects","seggeo":{json.dumps(about, sort_keys=True)},"features":['


def _lines(features: Features, result: Result, way: _LonLat | None) -> Iterator[str]:
    """One line of JSON for each object."""
    world = features.world if way is None else way.project(features.world)
    bounds, centres = features.measures.bounds, features.measures.centroid
    if way is not None and len(world):
        centres = way.points(centres)
        world, bounds = _split(world)
    decimals = 6 if way is None else way.decimals
    places = np.concatenate([centres, bounds], axis=1)
    keys = '"cx":%s,"cy":%s,"xmin":%s,"ymin":%s,"xmax":%s,"ymax":%s'
    sizes = _properties(features, result)
    for geometry, text, place in zip(_geometries(world, decimals), sizes, places.tolist(), strict=True):
        where = keys % tuple(_number(v, f"%.{decimals}f") for v in place)
        yield f'{{"type":"Feature",{text},{where}}},"geometry":{geometry}}}'


def _properties(features: Features, result: Result) -> Iterator[str]:
    objects, sizes = features.objects, features.measures
    names = [json.dumps(name, ensure_ascii=False) for name in class_names(result.classes).to_pylist()]
    with_slice = result.frame.depth > 1
    rows = zip(
        objects.id.tolist(), objects.instances.label.tolist(), objects.instances.score.tolist(), sizes.area_m2.tolist(),
        sizes.perimeter_m.tolist(), sizes.area_px.tolist(), sizes.perimeter_px.tolist(), objects.n_tiles.tolist(),
        objects.cut.tolist(), objects.touches_edge.tolist(), objects.instances.z.tolist(), strict=True,
    )  # fmt: skip
    for number, label, score, area_m2, perimeter_m, area_px, perimeter_px, n_tiles, cut, edge, z in rows:
        yield (
            f'"id":{number},"properties":{{"id":{number},"class":{names[label]},"score":{_number(score, "%.9g")},'
            f'"area_m2":{_number(area_m2)},"perimeter_m":{_number(perimeter_m)},"area_px":{area_px},'
            f'"perimeter_px":{perimeter_px!r},"n_tiles":{n_tiles},"cut":{_BOOLEAN[cut]},"touches_edge":{_BOOLEAN[edge]}'
            + (f',"z":{z}' if with_slice else "")
        )


_BOOLEAN = {True: "true", False: "false"}


def _number(value: float, form: str = "%r") -> str:
    return form % value if np.isfinite(value) else "null"


def _bounds(polygons: Polygons) -> FloatArray:
    first = polygons.mask_vertex_start[:-1]
    low, high = (f.reduceat(polygons.xy, first, axis=0) for f in (np.minimum, np.maximum))
    return np.concatenate([low, high], axis=1)


def _split(polygons: Polygons) -> tuple[Polygons, FloatArray]:
    """The same polygons within -180 to 180 degrees, and their `(xmin, ymin, xmax, ymax)`."""
    bounds = _bounds(polygons)
    first, last = polygons.xy[polygons.ring_start[:-1], 0], polygons.xy[polygons.ring_start[1:] - 1, 0]
    mask_of_ring = np.repeat(np.arange(len(polygons)), np.diff(polygons.mask_ring_start))
    is_known = np.isfinite(bounds).all(axis=1)
    is_polar = np.bincount(mask_of_ring, weights=first != last, minlength=len(polygons)).astype(bool) & is_known
    which = np.flatnonzero(is_polar | (is_known & (bounds[:, 2] > 180)))
    if not len(which):
        return polygons, bounds
    cut = np.array([_cut(polygons.take(which[k : k + 1])) for k in range(len(which))], object)
    bounds[is_polar] = shapely.bounds(cut[is_polar[which]])
    rest = np.setdiff1d(np.arange(len(polygons)), which)
    whole = join([polygons.take(rest), oriented(from_shapely(cut))])
    return whole.take(np.argsort(np.concatenate([rest, which]))), np.where(bounds > 180, bounds - _TURN, bounds)


def _cut(polygon: Polygons) -> shapely.MultiPolygon:
    """One multipolygon brought within -180 to 180 degrees, ring by ring: each may begin on another turn around the pole."""
    rings = [_within(_closed(r)) for r in np.split(polygon.xy, polygon.ring_start[1:-1])]
    parts = []
    for first, last in zip(polygon.part_start[:-1], polygon.part_start[1:], strict=True):
        area = shapely.difference(rings[first], shapely.union_all(rings[first + 1 : last]))
        parts += [p for p in shapely.get_parts(area) if p.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts)


def _within(ring: FloatArray) -> shapely.Geometry:
    area = shapely.Polygon(ring)
    west, _, east, _ = area.bounds
    turns = range(int(np.floor((west + 180) / _TURN)), int(ceil((east + 180) / _TURN)))
    pieces = [shapely.intersection(area, shapely.box(t * _TURN - 180, -90, t * _TURN + 180, 90)) for t in turns]
    return shapely.union_all(
        [shapely.transform(p, lambda xy, t=t: xy - [t * _TURN, 0]) for t, p in zip(turns, pieces, strict=True)]
    )


def _closed(ring: FloatArray) -> FloatArray:
    """The ring itself, or closed over the pole when it runs once around the earth."""
    if ring[0, 0] == ring[-1, 0]:
        return ring
    pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])


def _geometries(polygons: Polygons, decimals: int) -> Iterator[str]:
    """Polygon or MultiPolygon objects; null where the projection has no inverse."""
    known = np.isfinite(polygons.xy).all(axis=1).astype(bool)
    ring_start = polygons.ring_start.tolist()
    parts, masks = polygons.part_start.tolist(), polygons.mask_start.tolist()
    values = polygons.xy.ravel()
    forms: dict[int, str] = {}

    def ring(r: int) -> str:
        low, high = ring_start[r], ring_start[r + 1]
        if high - low not in forms:
            forms[high - low] = "[" + ",".join([f"[%.{decimals}f,%.{decimals}f]"] * (high - low)) + "]"
        return forms[high - low] % tuple(values[2 * low : 2 * high].tolist())

    for first, last in zip(masks[:-1], masks[1:], strict=True):
        if not known[ring_start[parts[first]] : ring_start[parts[last]]].all():
            yield "null"
            continue
        texts = ["[" + ",".join(ring(r) for r in range(parts[p], parts[p + 1])) + "]" for p in range(first, last)]
        kind, text = ("Polygon", texts[0]) if len(texts) == 1 else ("MultiPolygon", "[" + ",".join(texts) + "]")
        yield f'{{"type":"{kind}","coordinates":{text}}}'
