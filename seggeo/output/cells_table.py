"""Cells of a slide in batches, with everything that tables and QuPath say of them.

`iter_cells` walks a result twice: once for the centres, from which the distances to nearest neighbours follow, and once for
the rest. Coordinates in pixels are those of the slide at full resolution (`picture_of`); lengths and areas
are in the frame's unit, micrometres for a slide of known resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.instances import Objects
from seggeo.output.batches import bounded
from seggeo.output.cells_near import NearestNeighbours
from seggeo.output.cells_shape import FloatArray, Shapes, centres_of, shapes_of
from seggeo.protocols import Result
from seggeo.rle import Spans

RegionLookup = Callable[[FloatArray, FloatArray], NDArray[np.integer[Any]]]
"""Region numbers of points (x, y) at full resolution; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is known of cells beside their masks: intensities, optical densities, regions, positivity."""

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """By column name: one value for each cell, that of `id` at position `id - 1`; a `numpy.memmap` keeps memory flat.
    Floats (NaN where unknown), integers or booleans."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Name of a column's measurement in QuPath; default: the column's name."""
    region: RegionLookup | None = None
    """Gives the column `region`."""
    positive: str | None = None
    """Name of a boolean column; QuPath's classes are then split into Positive and Negative."""

    def __post_init__(self) -> None:
        wrong = [n for n, v in self.columns.items() if n in RESERVED or v.ndim != 1 or v.dtype.kind not in "fiub"]
        if wrong or (self.positive is not None and self.positive not in self.columns):
            raise OutputError(
                what=f"columns of cells cannot be added: {', '.join(wrong) or self.positive}",
                why="they need names of their own and one number or boolean for each cell, and positivity is one of them",
                mend="rename the channel, or leave the column out",
            )

    def at(self, ids: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
        """The columns' values for these cells."""
        return {name: np.asarray(values[ids.astype(np.int64) - 1]) for name, values in self.columns.items()}


RESERVED = frozenset(
    [
        "id", "class", "score", "x_px", "y_px", "circularity", "eccentricity", "solidity", "region", "n_tiles", "cut",
        "touches_edge",
    ]
)  # fmt: skip
"""Columns that every table has."""


def picture_of(frame: Frame) -> Frame:
    """The same grid in the picture's own pixels at full resolution, x to the right and y down, as viewers of slides draw.

    A slide's frame is that already. A map's leads to coordinates on the ground, where no pixel of the picture lies.
    """
    if frame.crs is None and (frame.unit != "px" or frame.is_upright):
        return frame
    return replace(frame, transform=Affine.scale(frame.scale), crs=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Units of a frame."""

    unit: str
    """um where the resolution is known, else px."""
    row: float
    """Height of a work-grid pixel in that unit."""
    col: float
    """Its width."""
    full: tuple[float, float]
    """Width and height of a full-resolution pixel in that unit."""

    @classmethod
    def of(cls, frame: Frame) -> Scale:
        """Units of a slide's frame; pixels are those of full resolution where nothing better is known."""
        t = picture_of(frame).transform
        width, height = hypot(t.a, t.d), hypot(t.b, t.e)
        if frame.unit == "px":
            return cls(unit="px", row=height, col=width, full=(1.0, 1.0))
        row, col = frame.spacing[1:]
        return cls(unit=frame.unit, row=row, col=col, full=(col / width, row / height))

    @property
    def area(self) -> str:
        """Ending of the names of columns of areas."""
        return "px" if self.unit == "px" else f"{self.unit}2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A batch of cells, arrays `(n,)`."""

    objects: Objects
    spans: Spans
    shapes: Shapes
    """In the unit of the scale."""
    x_px: FloatArray
    """Centre of gravity at full resolution."""
    y_px: FloatArray
    x: FloatArray
    """The same in the unit of the scale, from the slide's corner."""
    y: FloatArray
    neighbour: FloatArray
    """From centre to centre of the nearest cell; NaN for a cell alone."""
    region: NDArray[np.integer[Any]] | None
    extra: Mapping[str, NDArray[Any]]


def iter_cells(result: Result, extras: Extras, folder: Path | None = None) -> Iterator[Cells]:
    """All cells in order of id, a bounded number at a time.

    Args:
        result: What was merged; one slice.
        extras: Further columns.
        folder: Where temporary files lie.

    Raises:
        OutputError: The result has several slices.
    """
    if result.frame.depth > 1:
        raise OutputError(
            what=f"tables of cells cannot be written for {result.frame.depth} slices",
            why="shapes, areas and neighbours here are those of one plane",
            mend="choose another output format with -f",
        )
    scale = Scale.of(result.frame)
    with NearestNeighbours(folder) as near:
        for objects in bounded(result.iter_objects()):
            x, y = picture_of(result.frame).pixel_to_world(*centres_of(objects.instances))
            near.add(np.stack([x * scale.full[0], y * scale.full[1]], axis=1))
        near.finish()
        first = 0
        for objects in bounded(result.iter_objects()):
            distance = near.of(first, first + len(objects))
            first += len(objects)
            yield _cells(objects, distance, (result.frame, scale), extras)


def _cells(objects: Objects, distance: FloatArray, place: tuple[Frame, Scale], extras: Extras) -> Cells:
    frame, scale = place
    spans = objects.instances.spans()
    shapes = shapes_of(objects.instances, (scale.row, scale.col), spans)
    x, y = picture_of(frame).pixel_to_world(shapes.row, shapes.col)
    region = None if extras.region is None else extras.region(*frame.pixel_to_world(shapes.row, shapes.col))
    return Cells(
        objects=objects, spans=spans, shapes=shapes, x_px=x, y_px=y, x=x * scale.full[0], y=y * scale.full[1],
        neighbour=np.where(np.isfinite(distance), distance, np.nan),
        region=region, extra=extras.at(objects.id),
    )  # fmt: skip
