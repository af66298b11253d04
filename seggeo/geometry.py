"""Boxes of pixels and the way from pixels to the world: integer and float arithmetic, no I/O.

Pixel order is (z, row, col); a box is half-open. World order is (x, y). A pixel's corner nearest the origin
has the integer coordinate, its centre lies at +0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike, NDArray

from seggeo.errors import GeometryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A box of pixels in one slice, half-open: rows `row` to `row + height - 1`."""

    row: int
    """First row, 0 at the top; may not be negative."""
    col: int
    """First column, 0 at the left."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        if min(self.row, self.col) < 0 or min(self.height, self.width) < 1:
            raise GeometryError(
                what=f"window row={self.row} col={self.col} height={self.height} width={self.width} is not a box of pixels",
                why="offsets start at 0 and sizes at 1",
                mend="let the core make it: core.grow(halo, within=frame.window)",
            )

    @classmethod
    def from_bounds(cls, row: int, col: int, row_stop: int, col_stop: int) -> Window:
        """The window of half-open bounds."""
        return cls(row=row, col=col, height=row_stop - row, width=col_stop - col)

    @property
    def row_stop(self) -> int:
        """One past the last row."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """One past the last column."""
        return self.col + self.width

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """`(row, col, row_stop, col_stop)`."""
        return self.row, self.col, self.row_stop, self.col_stop

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)`."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Pixels in the window."""
        return self.height * self.width

    def intersect(self, other: Window) -> Window | None:
        """The pixels both hold, or None when they are apart."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        row_stop, col_stop = min(self.row_stop, other.row_stop), min(self.col_stop, other.col_stop)
        if row >= row_stop or col >= col_stop:
            return None
        return Window.from_bounds(row, col, row_stop, col_stop)

    def contains(self, other: Window) -> bool:
        """True when every pixel of `other` is in this window."""
        return self.intersect(other) == other

    def grow(self, margin: int, *, within: Window) -> Window:
        """The window with `margin` more pixels on every side, cut at `within`."""
        return Window.from_bounds(
            max(self.row - margin, within.row),
            max(self.col - margin, within.col),
            min(self.row_stop + margin, within.row_stop),
            min(self.col_stop + margin, within.col_stop),
        )

    def shift(self, rows: int, cols: int) -> Window:
        """The same box moved down by `rows` and right by `cols`."""
        return Window(row=self.row + rows, col=self.col + cols, height=self.height, width=self.width)

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """Row and column slices into an array whose first pixel is `origin`'s (default: pixel 0, 0)."""
        row, col = (0, 0) if origin is None else (origin.row, origin.col)
        return slice(self.row - row, self.row_stop - row), slice(self.col - col, self.col_stop - col)


Row = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the voxels of a volume's work grid lie in the world, and in the file they were read from."""

    matrix: tuple[Row, Row, Row]
    """World x, y and z from `(z, row, col, 1)`; whole numbers are voxel centres, as in NIfTI, DICOM and ITK."""
    space: str = ""
    """RAS (NIfTI), LPS (DICOM, ITK), or nothing for a microscope's own axes."""
    axes: tuple[int, int, int] = (0, 1, 2)
    """Axis of the file's volume, 0 the slowest as the reader gives it, that each of z, row and col runs along."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """What the format needs to write a volume of the same geometry, JSON values; its reader and writer know what."""

    def world(self, zyx: ArrayLike) -> NDArray[np.float64]:
        """World `(n, 3)` x, y, z of `(n, 3)` voxel indices z, row, col."""
        matrix = np.asarray(self.matrix)
        return np.asarray(np.asarray(zyx, np.float64) @ matrix[:, :3].T + matrix[:, 3])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Lengths of a step along z, row and col in the world."""
        z, row, col = (float(length) for length in np.linalg.norm(np.asarray(self.matrix)[:, :3], axis=0))
        return z, row, col

    @property
    def voxel_volume(self) -> float:
        """World volume of one voxel."""
        return float(abs(np.linalg.det(np.asarray(self.matrix)[:, :3])))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same placement."""
        return {
            "matrix": [list(row) for row in self.matrix], "space": self.space, "axes": list(self.axes),
            "header": dict(self.header),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Placement:
        """The placement that `to_json` described."""
        z, row, col = values["axes"]
        return cls(matrix=matrix_of(values["matrix"]), space=values["space"], axes=(z, row, col), header=values["header"])


def matrix_of(rows: ArrayLike) -> tuple[Row, Row, Row]:
    """The first three rows of a `(3, 4)` or `(4, 4)` matrix as plain numbers."""
    x, y, z = ((float(a), float(b), float(c), float(d)) for a, b, c, d in np.asarray(rows, np.float64)[:3].tolist())
    return x, y, z


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The work grid of a job at its GSD or MPP, and its way back to the world.

    `transform` maps `(col, row)` pixel corners to `(x, y)` of `crs`; identity when the image has no georeference. The voxels
    of a volume go to the world through `placement`.
    """

    height: int
    width: int
    depth: int = 1
    transform: Affine = Affine.identity()
    crs: str | None = None
    """WKT, or None for pixel coordinates."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Steps (z, row, col) in `unit`."""
    unit: str = "px"
    """m, um, mm or px."""
    level: int = 0
    """Pyramid level the work grid was read from; 0 is full resolution."""
    scale: float = 1.0
    """Full-resolution pixels in one work-grid pixel."""
    placement: Placement | None = None
    """Of a volume; None for an image."""
    is_series: bool = False
    """True where slices are frames in time: the step along z is one frame, whatever `unit` says."""

    def __post_init__(self) -> None:
        if min(self.depth, self.height, self.width) < 1:
            raise GeometryError(
                what=f"a frame of depth={self.depth} height={self.height} width={self.width} holds no pixels",
                why="every axis needs at least one",
                mend="check the input with: seggeo info FILE",
            )
        if not np.isfinite(self.determinant) or self.determinant == 0:
            raise GeometryError(
                what=f"transform {tuple(self.transform)[:6]} cannot be inverted",
                why="its rows or columns have no extent in the world",
                mend="repair the georeference of the input (gdal_edit -a_ullr ...)",
            )

    @property
    def determinant(self) -> float:
        """Signed world area of one pixel."""
        t = self.transform
        return float(t.a * t.e - t.b * t.d)

    @property
    def is_upright(self) -> bool:
        """True where x grows with columns alone and y with rows alone, downwards: as pixels of a picture, unlike most maps."""
        t = self.transform
        return bool(t.b == t.d == 0 and t.a > 0 and t.e > 0)

    @property
    def window(self) -> Window:
        """The whole slice."""
        return Window(row=0, col=0, height=self.height, width=self.width)

    def pixel_to_world(self, rows: ArrayLike, cols: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World `(x, y)` of pixel coordinates (corners are integers, centres +0.5)."""
        t = self.transform
        r, c = np.asarray(rows, np.float64), np.asarray(cols, np.float64)
        return t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f

    def world_to_pixel(self, xs: ArrayLike, ys: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel `(rows, cols)` of world coordinates, exact to rounding."""
        t = self.transform
        # Subtract the origin before scaling: 1e7 m eastings would eat the last digits of a 0.1 m pixel otherwise.
        dx, dy = np.asarray(xs, np.float64) - t.c, np.asarray(ys, np.float64) - t.f
        return (t.a * dy - t.d * dx) / self.determinant, (t.e * dx - t.b * dy) / self.determinant

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same frame."""
        values = {
            "depth": self.depth, "height": self.height, "width": self.width,
            "transform": list(self.transform)[:6], "crs": self.crs, "spacing": list(self.spacing),
            "unit": self.unit, "level": self.level, "scale": self.scale,
        }  # fmt: skip
        if self.placement is None:
            return values
        return {**values, "placement": self.placement.to_json(), "is_series": self.is_series}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Frame:
        """The frame that `to_json` described."""
        z, row, col = values["spacing"]
        placement = values.get("placement")
        own = {
            "transform": Affine(*_floats(values["transform"], 6)), "spacing": (z, row, col),
            "placement": None if placement is None else Placement.from_json(placement),
        }  # fmt: skip
        return cls(**{**values, **own})


def _floats(values: Sequence[float], count: int) -> list[float]:
    if len(values) != count:
        raise GeometryError(
            what=f"{len(values)} numbers where {count} are needed",
            why="an affine transform is a, b, c, d, e, f",
            mend="do not edit job.json by hand",
        )
    return [float(v) for v in values]
