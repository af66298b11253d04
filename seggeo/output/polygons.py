"""Polygons of many masks as flat arrays: pixel-edge exact, simplified on request, in pixel or world coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from seggeo.errors import GeometryError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.rings import Rings, rings_of
from seggeo.rle import IntArray, Spans

FloatArray = NDArray[np.float64]

_CHUNK = 1 << 16  # row intervals traced at once: the working arrays then stay in the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygons:
    """`n` multipolygons as nested offsets, the layout of GeoArrow and `shapely.from_ragged_array`.

    Rings are closed (the first vertex is repeated), the first ring of a part is its exterior, the others are its holes.
    """

    xy: FloatArray
    """Vertices, `(v, 2)`: (column, row) of pixel corners, or world (x, y)."""
    ring_start: IntArray
    """Where each ring begins in `xy`, `(rings + 1,)`."""
    part_start: IntArray
    """Where each part begins among the rings, `(parts + 1,)`."""
    mask_start: IntArray
    """Where each mask begins among the parts, `(n + 1,)`."""

    def __post_init__(self) -> None:
        ends = (self.ring_start[-1], self.part_start[-1], self.mask_start[-1])
        if ends != (len(self.xy), len(self.ring_start) - 1, len(self.part_start) - 1):
            raise GeometryError(
                what=f"polygon offsets that end at {tuple(int(e) for e in ends)} for {len(self.xy)} vertices",
                why="each level of offsets ends at the length of the one below",
                mend="make them with polygons.outlines or polygons.from_shapely",
            )

    def __len__(self) -> int:
        return len(self.mask_start) - 1

    @property
    def is_hole(self) -> NDArray[np.bool_]:
        """True for each ring that is not the exterior of its part, `(rings,)`."""
        holes = np.ones(len(self.ring_start) - 1, bool)
        holes[self.part_start[:-1]] = False
        return holes

    @property
    def mask_ring_start(self) -> IntArray:
        """Where each mask begins among the rings, `(n + 1,)`."""
        return self.part_start[self.mask_start]

    @property
    def mask_vertex_start(self) -> IntArray:
        """Where each mask begins among the vertices, `(n + 1,)`."""
        return self.ring_start[self.mask_ring_start]

    def take(self, which: IntArray) -> Polygons:
        """The multipolygons at these positions, in that order."""
        parts = ranges(self.mask_start[which], self.mask_start[which + 1])
        rings = ranges(self.part_start[parts], self.part_start[parts + 1])
        return Polygons(
            xy=self.xy[ranges(self.ring_start[rings], self.ring_start[rings + 1])],
            ring_start=_offsets(np.diff(self.ring_start)[rings]), part_start=_offsets(np.diff(self.part_start)[parts]),
            mask_start=_offsets(np.diff(self.mask_start)[which]),
        )  # fmt: skip

    def to_shapely(self) -> NDArray[np.object_]:
        """`n` shapely MultiPolygons."""
        offsets = (self.ring_start, self.part_start, self.mask_start)
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, self.xy, offsets), object)


def ranges(first: IntArray, stop: IntArray) -> IntArray:
    """`first[0] .. stop[0] - 1, first[1] .. stop[1] - 1, ...`."""
    sizes = stop - first
    shift = np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    return np.asarray(np.arange(len(shift)) + shift, np.int64)


def from_shapely(geometries: NDArray[np.object_]) -> Polygons:
    """The record of `n` shapely Polygons or MultiPolygons, none of them empty."""
    multi = [g if g.geom_type == "MultiPolygon" else shapely.MultiPolygon([g]) for g in geometries]
    if not multi:
        return join([])
    _, xy, (rings, parts, masks) = shapely.to_ragged_array(multi)
    return Polygons(
        xy=np.asarray(xy, np.float64), ring_start=np.asarray(rings, np.int64),
        part_start=np.asarray(parts, np.int64), mask_start=np.asarray(masks, np.int64),
    )  # fmt: skip


def outlines(instances: Instances, spans: Spans | None = None) -> Polygons:
    """Polygons along the pixel edges of all masks, in (column, row) pixel corners.

    Pixels that touch by a corner only are separate parts; a part whose own pixels close a ring by corners gets a hole that
    touches its exterior in that point. Both are valid. Vertices lie at corners only; exteriors run counter-clockwise on
    screen (rows downwards) from the top of their leftmost side.

    Args:
        instances: Masks, `n`.
        spans: `instances.spans()` where the caller has them already.
    """
    if not len(instances):
        return join([])
    return join([_polygons(rings_of(chunk), corner) for chunk, corner in _chunks(spans or instances.spans(), instances.box)])


def to_world(polygons: Polygons, frame: Frame) -> Polygons:
    """The same polygons in world coordinates `(x, y)`, exteriors counter-clockwise there too."""
    xs, ys = frame.pixel_to_world(polygons.xy[:, 1], polygons.xy[:, 0])
    world = replace(polygons, xy=np.stack([xs, ys], axis=1))
    return world if frame.determinant < 0 else reversed_rings(world)


def reversed_rings(polygons: Polygons, which: NDArray[np.bool_] | None = None) -> Polygons:
    """The same polygons with every ring, or those chosen, the other way round, from the same vertex."""
    at = np.arange(len(polygons.xy))
    mirror = np.repeat(polygons.ring_start[:-1] + polygons.ring_start[1:] - 1, np.diff(polygons.ring_start)) - at
    if which is not None:
        mirror = np.where(np.repeat(which, np.diff(polygons.ring_start)), mirror, at)
    return replace(polygons, xy=polygons.xy[mirror])


def oriented(polygons: Polygons) -> Polygons:
    """The same polygons with exteriors counter-clockwise and holes clockwise where y points up."""
    if not len(polygons):
        return polygons
    first = np.repeat(polygons.ring_start[:-1], np.diff(polygons.ring_start))
    x, y = (polygons.xy - polygons.xy[first]).T  # near 0, so that small rings far out keep their sign
    cross = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    cross[polygons.ring_start[1:] - 1] = 0
    is_clockwise = np.add.reduceat(cross, polygons.ring_start[:-1]) < 0
    wrong = is_clockwise != polygons.is_hole
    return reversed_rings(polygons, wrong) if wrong.any() else polygons


def simplify(polygons: Polygons, tolerance_m: float, metric: FloatArray, frame: Frame) -> Polygons:
    """Polygons with fewer vertices, none of which moved; valid, never empty, holes kept.

    Args:
        polygons: As `outlines` gives them, in pixels.
        tolerance_m: How far an outline may stray, in the unit of `metric` (metres; pixels without a CRS); GEOS lets some
            corners stray up to a quarter farther.
        metric: `(n, 3)` metric tensor (cc, cr, rr) at each mask, as `measures.Metric.at` gives it: square metres per square
            pixel, so that a metre is a metre in degrees and in web Mercator too. Masks without one stay as they are.
        frame: Where the polygons will be drawn; one that is not valid there after simplification stays as it was.
    """
    is_known = np.isfinite(metric).all(axis=1) & (metric[:, 0] * metric[:, 2] > metric[:, 1] ** 2)
    if tolerance_m <= 0 or not is_known.any():
        return polygons
    axes = _local_axes(np.where(is_known[:, None], metric, [1.0, 0.0, 1.0]))
    before = polygons.to_shapely()
    to_metres = axes[np.repeat(np.arange(len(before)), np.diff(polygons.mask_vertex_start))]
    local = replace(polygons, xy=np.einsum("vij,vj->vi", to_metres, polygons.xy)).to_shapely()
    simple = shapely.simplify(local, tolerance_m, preserve_topology=True)
    after = _back_to_pixels(simple, np.asarray(np.linalg.inv(axes), np.float64))
    after[~is_known] = before[~is_known]
    drawn = to_world(from_shapely(after), frame).to_shapely()
    is_good = shapely.is_valid(drawn) & ~shapely.is_empty(drawn)
    # A ring that falls to a few vertices may turn over.
    return reversed_rings(oriented(from_shapely(np.where(is_good, after, before))))


def _local_axes(metric: FloatArray) -> FloatArray:
    """`(n, 2, 2)` maps from (column, row) to metres on the ground around each mask; the metric's Cholesky factors."""
    cc, cr, rr = (metric[:, i] for i in range(3))
    axes = np.zeros((len(metric), 2, 2))
    axes[:, 0, 0] = np.sqrt(cc)
    axes[:, 0, 1] = cr / axes[:, 0, 0]
    axes[:, 1, 1] = np.sqrt(rr - axes[:, 0, 1] ** 2)
    return axes


def _back_to_pixels(geometries: NDArray[np.object_], to_pixels: FloatArray) -> NDArray[np.object_]:
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    # Simplification only drops vertices, so those left are whole pixel corners again, exactly.
    pixels = np.rint(np.einsum("vij,vj->vi", to_pixels[owner], xy))
    return np.asarray(shapely.set_coordinates(geometries, pixels), object)


def _chunks(spans: Spans, box: NDArray[np.int32]) -> Iterator[tuple[Spans, IntArray]]:
    """Whole masks, about `_CHUNK` spans at a time, owners counted from 0, and each mask's `(row, col)`.

    Rows and columns count from the mask's box: small numbers, several of which fit in one integer to be sorted.
    """
    corner, count = box[:, :2].astype(np.int64), len(box)
    start = np.searchsorted(spans.owner, np.arange(count + 1))
    low = 0
    while low < count:
        high = max(int(np.searchsorted(start, start[low] + _CHUNK, side="right")) - 1, low + 1)
        part = spans.take(np.arange(start[low], start[high]))
        top, left = corner[part.owner].T
        local = Spans(owner=part.owner - low, row=part.row - top, start=part.start - left, stop=part.stop - left)
        yield local, corner[low:high]
        low = high


def _polygons(rings: Rings, corner: IntArray) -> Polygons:
    top, left = np.repeat(corner[rings.mask], rings.size, axis=0).T
    return Polygons(
        xy=np.stack([rings.x + left, rings.y + top], axis=1).astype(np.float64), ring_start=_offsets(rings.size),
        part_start=np.append(np.flatnonzero(rings.is_exterior), len(rings.size)),
        mask_start=_offsets(np.bincount(rings.mask[rings.is_exterior])),
    )  # fmt: skip


def _offsets(sizes: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def join(pieces: list[Polygons]) -> Polygons:
    """All multipolygons of several records, in order."""
    if len(pieces) == 1:
        return pieces[0]
    none = np.zeros(0, np.int64)
    return Polygons(
        xy=np.concatenate([p.xy for p in pieces]) if pieces else np.zeros((0, 2)),
        ring_start=_offsets(np.concatenate([none, *(np.diff(p.ring_start) for p in pieces)])),
        part_start=_offsets(np.concatenate([none, *(np.diff(p.part_start) for p in pieces)])),
        mask_start=_offsets(np.concatenate([none, *(np.diff(p.mask_start) for p in pieces)])),
    )
