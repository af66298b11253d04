"""Well-known binary straight from flat arrays: what GDAL, GeoPackage and GeoParquet take, without an object per polygon."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seggeo.errors import OutputError
from seggeo.output.polygons import Polygons
from seggeo.rle import IntArray

_LITTLE, _POLYGON, _MULTIPOLYGON = 1, 3, 6
_HEAD = np.dtype([("order", "u1"), ("kind", "<u4"), ("count", "<u4")])
_RING = np.dtype([("vertices", "<u4")])


def multipolygons(polygons: Polygons) -> pa.Array:
    """A little-endian ISO WKB MultiPolygon for each mask, in order, as a pyarrow binary array.

    Byte for byte what `shapely.to_wkb(polygons.to_shapely(), byte_order=1)` gives.
    """
    rings = np.diff(polygons.mask_ring_start)
    vertices = np.diff(polygons.mask_vertex_start)
    pieces: list[pa.Array] = []
    order: list[IntArray] = []
    single = np.flatnonzero(rings == 1)
    by_size = single[np.argsort(vertices[single], kind="stable")]
    # Masks of one ring and equally many vertices make a table of equal rows, filled by one assignment.
    for group in np.split(by_size, np.flatnonzero(np.diff(vertices[by_size])) + 1):
        if len(group):
            pieces.append(_simple(polygons, group, int(vertices[group[0]])))
            order.append(group)
    several = np.flatnonzero(rings != 1)
    if len(several):
        pieces.append(_general(polygons.take(several)))
        order.append(several)
    if not pieces:
        return pa.array([], pa.binary())
    at = np.concatenate(order)
    back = np.empty(len(at), np.int64)
    back[at] = np.arange(len(at))
    return pa.concat_arrays(pieces).take(pa.array(back))


def _simple(polygons: Polygons, group: IntArray, vertices: int) -> pa.Array:
    """Masks of one part without holes, all with the same number of vertices."""
    row = np.dtype([("multi", _HEAD), ("part", _HEAD), ("ring", _RING), ("xy", "<f8", (vertices, 2))])
    table = np.zeros(len(group), row)
    _fill(table["multi"], _MULTIPOLYGON, 1)
    _fill(table["part"], _POLYGON, 1)
    table["ring"]["vertices"] = vertices
    table["xy"] = polygons.xy[polygons.mask_vertex_start[:-1][group][:, None] + np.arange(vertices)]
    return _binary(table.view(np.uint8), np.full(len(group), row.itemsize))


def _general(polygons: Polygons) -> pa.Array:
    """Any masks: coordinates and headers written to their places in one stream of bytes."""
    sizes = np.diff(polygons.ring_start)
    is_part, is_mask = ~polygons.is_hole, np.zeros(len(sizes), bool)
    is_mask[polygons.mask_ring_start[:-1]] = True
    # Bytes of headers that come before each ring: its own, its part's where it is the first, its mask's likewise.
    before = _RING.itemsize + _HEAD.itemsize * (is_part.astype(np.int64) + is_mask)
    at = np.cumsum(before + 16 * sizes) - 16 * sizes  # where each ring's coordinates begin
    stream = np.empty(int(at[-1] + 16 * sizes[-1]), np.uint8)
    is_header = np.repeat(np.tile([True, False], len(sizes)), np.stack([before, 16 * sizes], axis=1).ravel())
    stream[~is_header] = polygons.xy.astype("<f8").view(np.uint8).ravel()
    _place(stream, at - _RING.itemsize, sizes.astype("<u4").view(_RING))
    _place(stream, at[is_part] - _RING.itemsize - _HEAD.itemsize, _heads(_POLYGON, np.diff(polygons.part_start)))
    begin = at[is_mask] - _RING.itemsize - 2 * _HEAD.itemsize
    _place(stream, begin, _heads(_MULTIPOLYGON, np.diff(polygons.mask_start)))
    return _binary(stream, np.diff(begin, append=len(stream)))


def _fill(head: NDArray[np.void], kind: int, count: IntArray | int) -> None:
    head["order"], head["kind"], head["count"] = _LITTLE, kind, count


def _heads(kind: int, count: IntArray) -> NDArray[np.void]:
    heads = np.zeros(len(count), _HEAD)
    _fill(heads, kind, count)
    return heads


def _place(stream: NDArray[np.uint8], at: IntArray, records: NDArray[np.void]) -> None:
    size = records.dtype.itemsize
    stream[at[:, None] + np.arange(size)] = records.view(np.uint8).reshape(len(records), size)


def _binary(stream: NDArray[np.uint8], sizes: IntArray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] >= 1 << 31:
        raise OutputError(
            what=f"outlines of {offsets[-1]} bytes for {len(sizes)} objects",
            why="a batch of geometries holds 2 GiB at most",
            mend="use --simplify, or a model that gives smaller objects",
        )
    return pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(stream)])
