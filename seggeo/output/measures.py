"""Sizes in real units: square metres and metres on the ellipsoid, whatever the CRS, at array speed.

1. `ground_metric` samples how long a step of one column and of one row is on the ellipsoid, and the angle between the two, on a
   lattice over the frame, and halves its cells until bilinear interpolation is exact to 3e-5.
2. `measure` multiplies pixel counts and outline lengths by the metric at each object's centroid.
3. Objects so large that the metric changes over them are summed piece by piece instead: row intervals and edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.polygons import Polygons
from seggeo.rle import IntArray, Spans

FloatArray = NDArray[np.float64]

_EXACT = 3e-5  # allowed relative error of interpolation; the promise for areas is 1e-3
_FLAT = 1e-4  # objects over which the metric changes by less are measured with one value
_FINEST = 256  # cells per axis; where that does not suffice (poles, edge of a projection) the metric is computed point by point
_BLOCK = 1 << 14  # row intervals or edges of large objects in work at once; each may fall into some hundred pieces
_STEP_M = 200.0  # half the distance over which the metric is differenced: far above PROJ's rounding, far below curvature


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Metric tensor of a frame on the ellipsoid, in square metres per square pixel; made by `ground_metric`."""

    frame: Frame
    ground: _Ground
    lattice: FloatArray
    """(cc, cr, rr) at the nodes, `(k + 1, k + 1, 3)`, evenly spaced from the first to the last corner of the frame."""
    is_exact: NDArray[np.bool_]
    """True for cells where interpolation holds, `(k, k)`."""
    steepness: tuple[float, float]
    """Largest relative change of the metric's lengths from one row to the next, and from one column to the next."""

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a lattice cell, px."""
        return self.frame.height / len(self.is_exact), self.frame.width / len(self.is_exact)

    def at(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        """(cc, cr, rr) at pixel coordinates, `(n, 3)`; NaN where the projection has no inverse."""
        count = len(self.is_exact)
        v, u = rows / self.cell[0], cols / self.cell[1]
        i = np.clip(v.astype(np.int64), 0, count - 1)
        j = np.clip(u.astype(np.int64), 0, count - 1)
        values = _bilinear(self.lattice, (i, j), (v - i, u - j))
        outside = np.flatnonzero(~self.is_exact[i, j])
        values[outside] = self.ground.metric(rows[outside], cols[outside])
        return values

    def varies_over(self, box: NDArray[np.int32]) -> NDArray[np.bool_]:
        """True for boxes (row, col, row_stop, col_stop) over which one value of the metric would not do, `(n,)`."""
        return (box[:, 2] - box[:, 0]) * self.steepness[0] + (box[:, 3] - box[:, 1]) * self.steepness[1] > _FLAT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """The way from the pixels of a frame to the ellipsoid."""

    frame: Frame
    to_geodetic: pyproj.Transformer
    radians: float
    """Radians in one unit of the geodetic coordinates."""
    geod: pyproj.Geod
    step_px: float

    def metric(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        """(cc, cr, rr) from the positions of four neighbours in space, `(n, 3)`; space has no dateline and no poles."""
        h = self.step_px
        down = (self._space(rows + h, cols) - self._space(rows - h, cols)) / (2 * h)
        right = (self._space(rows, cols + h) - self._space(rows, cols - h)) / (2 * h)
        return np.stack([(right * right).sum(0), (right * down).sum(0), (down * down).sum(0)], axis=-1)

    def _space(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        """Geocentric metres, `(3, n)`."""
        lon, lat = self.to_geodetic.transform(*self.frame.pixel_to_world(rows, cols))
        lon, lat = (np.where(np.isfinite(v), v, np.nan) * self.radians for v in (lon, lat))
        normal = self.geod.a / np.sqrt(1 - self.geod.es * np.sin(lat) ** 2)
        around = normal * np.cos(lat)
        return np.stack([around * np.cos(lon), around * np.sin(lon), normal * (1 - self.geod.es) * np.sin(lat)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Sizes and places of `n` objects; NaN in metres without a CRS and where the projection has no inverse."""

    area_px: IntArray
    area_m2: FloatArray
    """On the ellipsoid."""
    perimeter_m: FloatArray
    """Length of the outlines, holes included, on the ellipsoid."""
    perimeter_px: FloatArray
    """Length of the outlines, holes included, in pixel sides."""
    centroid: FloatArray
    """World `(x, y)` of the centre of gravity of the pixels, `(n, 2)`."""
    bounds: FloatArray
    """World `(xmin, ymin, xmax, ymax)`, `(n, 4)`."""


def ground_metric(frame: Frame) -> Metric | None:
    """The metric of a frame, or None where its CRS is missing or not tied to the ground."""
    ground = _ground(frame)
    if ground is None:
        return None
    cells = 4
    while True:
        rows, cols = np.linspace(0, frame.height, 2 * cells + 1), np.linspace(0, frame.width, 2 * cells + 1)
        lattice = _sample(ground, rows[::2], cols[::2])
        centres = _sample(ground, rows[1::2], cols[1::2])
        error = _interpolation_error(lattice, centres)
        if (error <= _EXACT).all() or cells == _FINEST:
            steepness = _steepness(lattice, frame.height / cells, frame.width / cells)
            return Metric(frame=frame, ground=ground, lattice=lattice, is_exact=error <= _EXACT, steepness=steepness)
        cells *= 2


def measure(
    instances: Instances, drawn: tuple[Polygons, Polygons], metric: Metric | None, frame: Frame, spans: Spans | None = None
) -> Measures:
    """Sizes and places of objects.

    Args:
        instances: Masks in pixels of `frame`; areas and centroids are those of their pixels.
        drawn: Their outlines, simplified or not, in pixels and in world coordinates; perimeters and boxes are theirs.
        metric: From `ground_metric(frame)`, made once for many batches.
        frame: The work grid.
        spans: `instances.spans()` where the caller has them already.
    """
    pixels, world = drawn
    spans = spans or instances.spans()
    area, rows, cols = _centres(spans, len(instances))
    area_m2, perimeter_m = np.full(len(area), np.nan), np.full(len(area), np.nan)
    if metric is not None and len(area):
        local = metric.at(rows, cols)
        area_m2, perimeter_m = area * _det(local), _perimeters(pixels, local)
        large = metric.varies_over(instances.box)
        if large.any():
            area_m2[large] = _summed_areas(spans, large, metric)
            perimeter_m[large] = _summed_perimeters(pixels, large, metric)
    return Measures(
        area_px=area, area_m2=area_m2, perimeter_m=perimeter_m,
        perimeter_px=_perimeters(pixels, np.tile([1.0, 0.0, 1.0], (len(area), 1))),
        centroid=np.stack(frame.pixel_to_world(rows, cols), axis=1), bounds=_bounds(world),
    )  # fmt: skip


def _centres(spans: Spans, count: int) -> tuple[IntArray, FloatArray, FloatArray]:
    """Area, and row and column of the centre of gravity, of each mask."""
    length = spans.stop - spans.start
    area = spans.areas(count)
    rows = np.bincount(spans.owner, weights=(spans.row + 0.5) * length, minlength=count) / area
    cols = np.bincount(spans.owner, weights=0.5 * (spans.start + spans.stop) * length, minlength=count) / area
    return area, rows, cols


def _bounds(polygons: Polygons) -> FloatArray:
    if not len(polygons):
        return np.zeros((0, 4))
    first = polygons.mask_vertex_start[:-1]
    x, y = (np.ascontiguousarray(v) for v in polygons.xy.T)
    return np.stack([f.reduceat(v, first) for f in (np.minimum, np.maximum) for v in (x, y)], axis=1)


def _ground(frame: Frame) -> _Ground | None:
    crs = None if frame.crs is None else pyproj.CRS.from_user_input(frame.crs)
    base = None if crs is None else crs.geodetic_crs
    geod = None if base is None else base.get_geod()
    if crs is None or base is None or geod is None or not (crs.is_projected or crs.is_geographic):
        return None
    radians = float(base.axis_info[0].unit_conversion_factor)
    unit_m = float(crs.axis_info[0].unit_conversion_factor) * (1.0 if crs.is_projected else geod.a)
    pixel_m = np.sqrt(abs(frame.determinant)) * unit_m
    return _Ground(
        frame=frame, to_geodetic=pyproj.Transformer.from_crs(crs, base, always_xy=True), radians=radians, geod=geod,
        step_px=_STEP_M / pixel_m,
    )  # fmt: skip


def _det(metric: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(metric[..., 0] * metric[..., 2] - metric[..., 1] ** 2, 0.0))


def _sample(ground: _Ground, rows: FloatArray, cols: FloatArray) -> FloatArray:
    grid = np.meshgrid(rows, cols, indexing="ij")
    return ground.metric(grid[0].ravel(), grid[1].ravel()).reshape(len(rows), len(cols), 3)


def _interpolation_error(lattice: FloatArray, centres: FloatArray) -> FloatArray:
    """Largest relative error at the centre of each cell; infinite where a value is missing."""
    guess = (lattice[1:, 1:] + lattice[1:, :-1] + lattice[:-1, 1:] + lattice[:-1, :-1]) / 4
    size = np.stack([centres[..., 0], np.sqrt(centres[..., 0] * centres[..., 2]), centres[..., 2]], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (np.abs(guess - centres) / size).max(axis=-1)
    return np.where(np.isfinite(error), error, np.inf)


def _steepness(lattice: FloatArray, height: float, width: float) -> tuple[float, float]:
    """Largest relative change of any part of the metric per row and per column."""
    cc, cr, rr = np.moveaxis(lattice, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = np.log(cc) / 2, cr / np.sqrt(cc * rr), np.log(rr) / 2
        slopes = [[np.abs(np.diff(part, axis=axis)) / size for part in parts] for axis, size in enumerate((height, width))]
    down, right = (max(float(np.max(s, where=np.isfinite(s), initial=0.0)) for s in along) for along in slopes)
    return down, right


def _bilinear(lattice: FloatArray, cell: tuple[IntArray, IntArray], part: tuple[FloatArray, FloatArray]) -> FloatArray:
    i, j = cell
    v, u = part[0][:, None], part[1][:, None]
    flat, width = lattice.reshape(-1, 3), lattice.shape[1]
    node = i * width + j
    top = flat[node] * (1 - u) + flat[node + 1] * u
    bottom = flat[node + width] * (1 - u) + flat[node + width + 1] * u
    return np.asarray(top * (1 - v) + bottom * v, np.float64)


def _perimeters(polygons: Polygons, metric: FloatArray) -> FloatArray:
    """Outline lengths with one metric tensor for each mask, `(n,)`."""
    if not len(polygons):
        return np.zeros(0)
    step = _steps(polygons)
    first = polygons.mask_vertex_start[:-1]
    dx, dy = np.abs(step[:, 0]), np.abs(step[:, 1])
    slanted = np.flatnonzero((dx > 0) & (dy > 0))
    owner = np.searchsorted(first, slanted, side="right") - 1
    across = np.sqrt(_squared(metric[owner], step[slanted]))
    dx[slanted] = dy[slanted] = 0
    straight = np.add.reduceat(dx, first) * np.sqrt(metric[:, 0]) + np.add.reduceat(dy, first) * np.sqrt(metric[:, 2])
    return np.asarray(straight + np.bincount(owner, weights=across, minlength=len(polygons)), np.float64)


def _steps(polygons: Polygons) -> FloatArray:
    """From each vertex to the next of its ring, 0 from the last, `(v, 2)`."""
    step = np.diff(polygons.xy, axis=0, append=np.zeros((1, 2)))
    step[polygons.ring_start[1:] - 1] = 0
    return step


def _summed_areas(spans: Spans, large: NDArray[np.bool_], metric: Metric) -> FloatArray:
    """Square metres of the chosen masks, row interval by row interval, cut where they are longer than a lattice cell."""
    total = np.zeros(len(large))
    own = spans.take(large[spans.owner])
    for low in range(0, len(own), _BLOCK):
        some = own.take(np.arange(low, min(low + _BLOCK, len(own))))
        width = (some.stop - some.start).astype(np.float64)
        which, middle, share = _pieces(width / max(metric.cell[1], 1.0))
        rows: FloatArray = some.row[which].astype(np.float64) + 0.5
        cols: FloatArray = some.start[which] + middle * width[which]
        weights = _det(metric.at(rows, cols)) * width[which] * share
        total += np.bincount(some.owner[which], weights=weights, minlength=len(large))
    return total[large]


def _summed_perimeters(polygons: Polygons, large: NDArray[np.bool_], metric: Metric) -> FloatArray:
    """Metres around the chosen masks, edge by edge, cut where they are longer than a lattice cell."""
    total = np.zeros(len(large))
    step = _steps(polygons)
    owner = np.repeat(np.arange(len(large)), np.diff(polygons.mask_vertex_start))
    edges = np.flatnonzero(large[owner])
    for low in range(0, len(edges), _BLOCK):
        some = edges[low : low + _BLOCK]
        cells = np.abs(step[some, 1]) / max(metric.cell[0], 1.0) + np.abs(step[some, 0]) / max(metric.cell[1], 1.0)
        which, middle, share = _pieces(cells)
        by = step[some][which]
        at = polygons.xy[some][which] + middle[:, None] * by
        length = np.sqrt(_squared(metric.at(*at.T[::-1]), by))
        total += np.bincount(owner[some][which], weights=length * share, minlength=len(large))
    return total[large]


def _squared(metric: FloatArray, step: FloatArray) -> FloatArray:
    """Square metres of steps `(n, 2)` in (columns, rows)."""
    x, y = step.T
    return np.asarray(np.maximum(metric[:, 0] * x * x + 2 * metric[:, 1] * x * y + metric[:, 2] * y * y, 0), np.float64)


def _pieces(cells: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Lengths in cells cut into pieces of one cell at most.

    Returns:
        Which length each piece is of, where its middle lies (0 to 1), and its share of the length.
    """
    pieces = np.maximum(np.ceil(cells), 1).astype(np.int64)
    which = np.repeat(np.arange(len(cells)), pieces)
    position = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return which, (position + 0.5) / pieces[which], 1.0 / pieces[which]
