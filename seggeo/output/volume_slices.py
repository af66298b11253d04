"""A volume's result one slice at a time: its cross-sections in order of id, in parts that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Frame, Placement
from seggeo.instances import Instances, Objects, concat
from seggeo.output.batches import CHUNK
from seggeo.output.volume_shape import chunks
from seggeo.protocols import Result
from seggeo.rle import Spans

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """All cross-sections of one slice; masks stay runs."""

    z: int
    objects: Objects
    """In ascending order of id."""

    @property
    def ids(self) -> IntArray:
        """`(n,)`."""
        return self.objects.id.astype(np.int64)


def iter_slices(result: Result) -> Iterator[Slice]:
    """The slices that hold objects, ascending."""
    batches = (objects for objects in result.iter_objects() if len(objects))
    for z, group in groupby(batches, key=lambda objects: int(objects.instances.z[0])):
        parts = list(group)
        ids = np.concatenate([p.id for p in parts])
        order = np.argsort(ids, kind="stable")
        whole = Objects(
            instances=concat([p.instances for p in parts]), id=ids, **{
                name: np.concatenate([getattr(p, name) for p in parts]) for name in ("n_tiles", "cut", "touches_edge")
            },
        )  # fmt: skip
        yield Slice(z=z, objects=picked(whole, order))


def iter_pairs(result: Result) -> Iterator[tuple[Slice | None, Slice | None]]:
    """Every two neighbouring slices of which at least one holds objects; the other is None where it does not, or is no more."""
    last: Slice | None = None
    for one in iter_slices(result):
        if last is not None and one.z > last.z + 1:
            yield last, None
            last = None
        yield last, one
        last = one
    if last is not None:
        yield last, None


def shared_spans(below: Slice | None, above: Slice | None) -> Iterator[tuple[IntArray, Spans, Spans]]:
    """Ids, and the row intervals of both slices with positions among these ids as owners; bounded parts, each id in one."""
    none = np.zeros(0, np.int64)
    low, high = (none if one is None else one.ids for one in (below, above))
    ids = np.union1d(low, high)
    weight = np.zeros(len(ids), np.int64)
    for one, own in ((below, low), (above, high)):
        if one is not None:
            weight[np.searchsorted(ids, own)] += _intervals(one.objects.instances)
    for part in chunks(weight, CHUNK):
        here = ids[part]
        yield here, _spans(below, here), _spans(above, here)


def parts_of(one: Slice) -> Iterator[Objects]:
    """The cross-sections of a slice in bounded parts."""
    for part in chunks(_intervals(one.objects.instances), CHUNK):
        yield picked(one.objects, np.arange(part.start, part.stop))


def picked(objects: Objects, which: NDArray[np.integer] | NDArray[np.bool_]) -> Objects:
    """The picked objects, in that order."""
    return Objects(
        instances=objects.instances.take(which), id=objects.id[which], n_tiles=objects.n_tiles[which],
        cut=objects.cut[which], touches_edge=objects.touches_edge[which],
    )  # fmt: skip


def placement_of(frame: Frame) -> Placement:
    """Where a frame's voxels lie; of one that does not know, from the corner of the first voxel's slice along its axes."""
    if frame.placement is not None:
        return frame.placement
    z, row, col = frame.spacing
    return Placement(matrix=((0.0, 0.0, col, 0.0), (0.0, row, 0.0, 0.0), (z, 0.0, 0.0, 0.0)))


def _intervals(instances: Instances) -> IntArray:
    """At least as many as the row intervals of each mask."""
    return np.asarray(instances.box[:, 2] - instances.box[:, 0] + np.diff(instances.start) // 2, np.int64)


def _spans(one: Slice | None, ids: IntArray) -> Spans:
    """Row intervals of the cross-sections with these ids, owners their positions in `ids`."""
    if one is None:
        none = np.zeros(0, np.int64)
        return Spans(owner=none, row=none, start=none, stop=none)
    own = one.ids
    low, high = np.searchsorted(own, [ids[0], ids[-1] + 1])
    spans = one.objects.instances.take(slice(int(low), int(high))).spans()
    owner = np.searchsorted(ids, own[low:high])[spans.owner]
    return Spans(owner=owner, row=spans.row, start=spans.start, stop=spans.stop)


def slice_counts(result: Result) -> IntArray:
    """`(depth,)` objects in each slice."""
    counts = np.zeros(result.frame.depth, np.int64)
    for objects in result.iter_objects():
        if len(objects):
            counts[objects.instances.z[0]] += len(objects)
    return counts


def last_slices(result: Result) -> NDArray[np.int32]:
    """The last slice of each id, at position `id - 1`; -1 for an id that is not there."""
    last = np.full(result.count, -1, np.int32)
    for objects in result.iter_objects():
        most = int(objects.id.max(initial=0))
        if most > len(last):
            last = np.concatenate([last, np.full(max(most - len(last), len(last)), -1, np.int32)])
        last[objects.id.astype(np.int64) - 1] = objects.instances.z
    return last
