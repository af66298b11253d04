"""What is known of a volume's objects when their cross-sections have gone by once, slice after slice.

1. `tally` adds up every cross-section (`_add_section`) and every piece of surface between two slices in a ledger;
2. `Shapes` and `Tracks` turn its rows into volumes, surfaces and places, or paths through time.

Two slices of masks and a few blocks of rows are in memory, whatever the depth and the number of objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Placement
from seggeo.instances import Objects
from seggeo.output.volume_ledger import Ledger
from seggeo.output.volume_shape import cube_areas, pair_areas, sphericity
from seggeo.output.volume_slices import iter_pairs, parts_of, placement_of, shared_spans
from seggeo.protocols import Result

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_FRESH = {
    "label": 0.0, "score": 0.0, "voxels": 0.0, "z": 0.0, "row": 0.0, "col": 0.0, "surface": 0.0, "slices": 0.0,
    "first": np.inf, "last": -np.inf, "edge": 0.0, "tiles": 0.0, "cut": 0.0,
    "low_x": np.inf, "low_y": np.inf, "low_z": np.inf, "high_x": -np.inf, "high_y": -np.inf, "high_z": -np.inf,
    "start_x": 0.0, "start_y": 0.0, "start_z": 0.0, "end_x": 0.0, "end_y": 0.0, "end_z": 0.0, "path": 0.0,
}  # fmt: skip
_RECORD = np.dtype([(name, np.float64) for name in _FRESH])
_AXES = ("x", "y", "z")


@contextmanager
def tally(result: Result, folder: Path | None) -> Iterator[Ledger]:
    """Everything added up, in a ledger that lasts as long as the block.

    Args:
        result: Objects of a volume or of a series in time.
        folder: Where the ledger's file lies.
    """
    frame, place = result.frame, placement_of(result.frame)
    areas = None if frame.is_series else cube_areas(np.asarray(place.matrix)[:, :3])
    outer = set() if frame.is_series or frame.depth == 1 else {0, frame.depth - 1}
    with Ledger(list(_FRESH.values()), folder) as ledger:
        for below, above in iter_pairs(result):
            if above is not None:
                for objects in parts_of(above):
                    _add_section(ledger, objects, place, is_outer=above.z in outer)
            if areas is not None:
                for ids, low, high in shared_spans(below, above):
                    rows = ledger.take(ids)
                    rows.view(_RECORD)["surface"][:, 0] += pair_areas(low, high, len(ids), areas)
                    ledger.put(ids, rows)
        yield ledger


def _add_section(ledger: Ledger, objects: Objects, place: Placement, *, is_outer: bool) -> None:
    """Add cross-sections of one slice, in ascending order of id."""
    ids, n, z = objects.id.astype(np.int64), len(objects), int(objects.instances.z[0])
    spans = objects.instances.spans()
    pixels = spans.stop - spans.start
    area = spans.areas(n)
    row_sum = np.bincount(spans.owner, weights=spans.row * pixels, minlength=n)
    col_sum = np.bincount(spans.owner, weights=(spans.start + spans.stop - 1) * pixels / 2, minlength=n)
    rows = ledger.take(ids)
    own = rows.view(_RECORD)[:, 0]
    is_new = own["slices"] == 0
    own["label"] = np.where(is_new, objects.instances.label, own["label"])
    sums = {
        "score": objects.instances.score.astype(np.float64) * area, "voxels": area, "z": z * area, "row": row_sum,
        "col": col_sum, "slices": 1,
    }  # fmt: skip
    for name, values in sums.items():
        own[name] += values
    for name, values in {
        "edge": objects.touches_edge | is_outer, "cut": objects.cut, "tiles": objects.n_tiles,
    }.items():  # fmt: skip
        own[name] = np.maximum(own[name], values)
    begins = np.searchsorted(spans.owner, np.arange(n))
    for name, (_, row, col, origin), step in zip(_AXES, place.matrix, np.asarray(place.matrix)[:, 0] * z, strict=True):
        one = step + row * spans.row + col * spans.start + origin
        other = one + col * (pixels - 1)
        own[f"low_{name}"] = np.minimum(own[f"low_{name}"], np.minimum.reduceat(np.minimum(one, other), begins))
        own[f"high_{name}"] = np.maximum(own[f"high_{name}"], np.maximum.reduceat(np.maximum(one, other), begins))
    _move(own, is_new, place.world(np.stack([np.zeros(n), row_sum / area, col_sum / area], axis=1)))
    own["first"], own["last"] = np.minimum(own["first"], z), np.maximum(own["last"], z)
    ledger.put(ids, rows)


def _move(own: NDArray[Any], is_new: NDArray[np.bool_], here: FloatArray) -> None:
    """Go on from where the last cross-section lay to the world points `here`, `(n, 3)`."""
    before = np.stack([own[f"end_{name}"] for name in _AXES], axis=1)
    own["path"] += np.where(is_new, 0, np.linalg.norm(here - before, axis=1))
    for name, values in zip(_AXES, here.T, strict=True):
        own[f"start_{name}"] = np.where(is_new, values, own[f"start_{name}"])
        own[f"end_{name}"] = values


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What both kinds of objects have; arrays `(n,)`."""

    id: IntArray
    label: IntArray
    score: FloatArray
    """Mean over voxels."""
    voxels: IntArray
    first: IntArray
    """Slice or frame, from 0."""
    last: IntArray
    slices: IntArray
    """Slices that hold the object."""
    n_tiles: IntArray
    """Tiles that reported its cross-section in the slice where most did: more than 1 where it lies on a seam."""
    cut: NDArray[np.bool_]
    touches_edge: NDArray[np.bool_]
    """A side of the slices, or the first or last slice of a volume."""
    sums: NDArray[Any]
    """What else was added up."""


def rows_of(ledger: Ledger) -> Iterator[Rows]:
    """The objects in ascending order of id, some thousands at a time."""
    for ids, block in ledger.blocks():
        sums = block.view(_RECORD)[:, 0]
        found = sums["voxels"] > 0
        sums = sums[found]
        whole = {
            name: sums[column].astype(np.int64)
            for name, column in {"label": "label", "voxels": "voxels", "first": "first", "last": "last", "slices": "slices",
                                 "n_tiles": "tiles"}.items()
        }  # fmt: skip
        yield Rows(
            id=ids[found], score=sums["score"] / sums["voxels"], cut=sums["cut"] > 0, touches_edge=sums["edge"] > 0, sums=sums,
            **whole,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Objects of a volume in the unit of its world; arrays `(n,)` or `(n, 3)`."""

    volume: FloatArray
    surface: FloatArray
    """Of marching cubes around the voxels, unsmoothed."""
    sphericity: FloatArray
    extent: FloatArray
    """Along x, y and z of the world, whole voxels."""
    centre: FloatArray
    """World x, y, z of the centre of gravity."""
    voxel: FloatArray
    """The same as z, row and col; whole numbers are voxel centres."""

    @classmethod
    def of(cls, rows: Rows, place: Placement) -> Shapes:
        """Shapes of some objects."""
        sums, matrix = rows.sums, np.asarray(place.matrix)
        volume: FloatArray = rows.voxels.astype(np.float64) * place.voxel_volume
        voxel = np.stack([sums[name] / sums["voxels"] for name in ("z", "row", "col")], axis=1)
        reach = np.stack([sums[f"high_{name}"] - sums[f"low_{name}"] for name in _AXES], axis=1)
        return cls(
            volume=volume, surface=sums["surface"], sphericity=sphericity(volume, sums["surface"]),
            extent=reach + np.abs(matrix[:, :3]).sum(axis=1), centre=place.world(voxel), voxel=voxel,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """Objects of a series in time, in the unit of its world; arrays `(n,)` or `(n, 3)`."""

    area: FloatArray
    """Mean over the frames that hold the object."""
    start: FloatArray
    """World x, y, z of the centre in the first frame."""
    end: FloatArray
    displacement: FloatArray
    """From start to end."""
    path: FloatArray
    """From each frame to the next, straight over missed ones."""
    speed: FloatArray
    """Path by frames gone by; 0 for an object of one frame."""

    @classmethod
    def of(cls, rows: Rows, place: Placement) -> Tracks:
        """Tracks of some objects."""
        matrix, sums = np.asarray(place.matrix), rows.sums
        pixel = float(np.linalg.norm(np.cross(matrix[:, 1], matrix[:, 2])))
        start, end = (np.stack([sums[f"{name}_{axis}"] for axis in _AXES], axis=1) for name in ("start", "end"))
        return cls(
            area=rows.voxels * pixel / rows.slices, start=start, end=end,
            displacement=np.linalg.norm(end - start, axis=1), path=sums["path"],
            speed=sums["path"] / np.maximum(rows.last - rows.first, 1),
        )  # fmt: skip
