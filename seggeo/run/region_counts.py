"""Cells by region: each cell belongs to the smallest region around its centre, and is counted in all that hold it, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from seggeo.geometry import Frame
from seggeo.io.regions import Region
from seggeo.output.cells_shape import centres_of
from seggeo.protocols import Result


class Lookup:
    """Number of the region that points lie in: 1 for the first; where regions lie in each other the smallest counts."""

    def __init__(self, regions: Sequence[Region], frame: Frame) -> None:
        self._frame = frame
        order = np.argsort([-shapely.area(region.shape) for region in regions], kind="stable")
        self._order = order + 1
        self._tree = shapely.STRtree([regions[i].shape for i in order])

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int32]:
        """Regions of points `(x, y)` in full-resolution pixels, `(n,)`; 0 outside all of them."""
        rows, cols = self._frame.world_to_pixel(x, y)
        point, region = self.pairs(rows, cols)
        found, last = np.zeros(len(rows), np.int32), np.full(len(rows), -1)
        np.maximum.at(last, point, region)  # the tree's shapes go from large to small
        found[last >= 0] = self._order[last[last >= 0]]
        return found

    def pairs(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Points of the work grid and every shape, from large to small, that holds them."""
        point, region = self._tree.query(shapely.points(cols, rows), predicate="within")
        return point, region

    def everywhere(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many of the points each region holds, smaller regions inside it included."""
        counts = np.zeros(len(self._order), np.int64)
        np.add.at(counts, self._order[self.pairs(rows, cols)[1]] - 1, 1)
        return counts


def count_regions(result: Result, regions: Sequence[Region]) -> list[dict[str, Any]]:
    """A row for each region: cells and area of its own, and with the regions inside it; mm2 where the resolution is known."""
    lookup, frame = Lookup(regions, result.frame), result.frame
    own, nested = np.zeros(len(regions), np.int64), np.zeros(len(regions), np.int64)
    for objects in result.iter_objects():
        rows, cols = centres_of(objects.instances)
        x, y = frame.pixel_to_world(rows, cols)
        own += np.bincount(lookup(x, y), minlength=len(regions) + 1)[1:]
        nested += lookup.everywhere(rows, cols)
    whole = shapely.box(0, 0, frame.width, frame.height)
    shapes = [shapely.intersection(region.shape, whole) for region in regions]
    full = [float(shapely.area(shape)) for shape in shapes]
    alone = [_alone(i, shapes, full) for i in range(len(shapes))]
    to_mm2 = frame.spacing[1] * frame.spacing[2] * 1e-6 if frame.unit == "um" else float("nan")
    return [
        {
            "region": region.name, "number": i + 1, "cells": int(own[i]), "area_mm2": _stated(alone[i] * to_mm2),
            "per_mm2": _stated(own[i] / (alone[i] * to_mm2)) if alone[i] else None, "cells_with_nested": int(nested[i]),
            "area_with_nested_mm2": _stated(full[i] * to_mm2),
        }
        for i, region in enumerate(regions)
    ]  # fmt: skip


def _alone(i: int, shapes: Sequence[Any], area: Sequence[float]) -> float:
    """Area of a region without the smaller ones inside it."""
    smaller = [s for j, s in enumerate(shapes) if (area[j], -j) < (area[i], -i) and shapely.intersects(s, shapes[i])]
    return float(shapely.area(shapely.difference(shapes[i], shapely.union_all(smaller)))) if smaller else area[i]


def _stated(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
