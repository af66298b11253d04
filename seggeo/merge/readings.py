"""Readings: what tiles reported, with the little geometry that merging asks of each.

A *reading* is one instance reported by one tile. Its *depth* is how far its box stays from the inner sides of that
tile's window, the sides that are not the image's own edge: 0 touches a side and is cut there. Models draw poorly
beside a side, so a reading within `margin` of one is *suspect*: perhaps whole, perhaps cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances, concat
from seggeo.tiling import SLACK, PartGrid, Tile, TileGrid

IntArray = NDArray[np.int64]
FAR = 1 << 19
"""Depth of a reading whose window has no inner side."""
MOST_IN_TILE = 1 << 24
"""Readings of one tile; keys are tile * MOST_IN_TILE + position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """`n` readings, parallel arrays."""

    instances: Instances
    """In work-grid pixels."""
    key: IntArray
    """Tile and position in it; the tie-breaker everywhere, so that no result depends on the order of work."""
    row: IntArray
    """Row of the tile in its grid."""
    col: IntArray
    depth: IntArray
    """Pixels to the nearest inner side of the window, FAR where there is none."""
    closes: IntArray
    """Last part whose tiles can still have something to say about this reading."""
    area: IntArray
    home: NDArray[np.bool_]
    """True when the centre of the box lies in the tile's own core."""
    visitor: NDArray[np.bool_]
    """True when the box lies outside the tile's own core: reported only to be on the safe side."""
    alone: NDArray[np.bool_]
    """True when no other tile's window meets the box: nobody else can have seen it."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def tile(self) -> IntArray:
        """Index of the tile that reported."""
        return self.key // MOST_IN_TILE

    def take(self, which: NDArray[np.bool_] | IntArray) -> Readings:
        """The picked readings, in that order."""
        columns = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "instances"}
        return Readings(instances=self.instances.take(which), **columns)


def join(a: Readings, b: Readings) -> Readings:
    """The readings of both, `a` first."""
    values = {f.name: np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(a) if f.name != "instances"}
    return Readings(instances=concat([a.instances, b.instances]), **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """The grid's windows and cores as arrays along each axis, for arithmetic on many readings."""

    grid: TileGrid
    parts: PartGrid
    row_window: IntArray
    """`(rows, 2)` first and one-past-last pixel row."""
    col_window: IntArray
    row_core: IntArray
    col_core: IntArray

    side: int
    """Tiles along one side of a part."""
    layers: int
    """Slices in a part."""
    offsets: tuple[tuple[int, int], ...]
    """Steps (tile rows, tile columns) to the tiles whose windows can meet a tile's own."""

    @classmethod
    def of(cls, parts: PartGrid) -> Lattice:
        """The arrays of one grid."""
        grid = parts.grid
        row_window = np.array([grid.row_window(r) for r in range(grid.rows)], np.int64)
        col_window = np.array([grid.col_window(c) for c in range(grid.cols)], np.int64)
        down, right = _reach(row_window), _reach(col_window)
        steps = [(r, c) for r in range(-down, down + 1) for c in range(-right, right + 1) if (r, c) != (0, 0)]
        return cls(
            grid=grid, parts=parts, row_window=row_window, col_window=col_window,
            row_core=np.array([grid.row_core(r) for r in range(grid.rows)], np.int64),
            col_core=np.array([grid.col_core(c) for c in range(grid.cols)], np.int64),
            side=parts.side, layers=parts.layers, offsets=tuple(steps),
        )  # fmt: skip

    @property
    def margin(self) -> int:
        """Depth up to which a reading is suspect, px: grows with the halo that has to contain it."""
        return min(12, self.grid.halo // 2)

    def part(self, z: IntArray, row: IntArray, col: IntArray) -> IntArray:
        """Parts that hold tiles."""
        rows, cols = -(-self.grid.rows // self.side), -(-self.grid.cols // self.side)
        return (z // self.layers * rows + row // self.side) * cols + col // self.side

    def index(self, z: IntArray, row: IntArray, col: IntArray) -> IntArray:
        """Indices of tiles."""
        return (z * self.grid.rows + row) * self.grid.cols + col


def _reach(windows: IntArray) -> int:
    """How many windows on, along one axis, two can still meet: 1, or 2 where the last one was moved far inwards."""
    return 2 if (windows[2:, 0] < windows[:-2, 1]).any() else 1


def _unshared(windows: IntArray, length: int) -> IntArray:
    """`(n, 2)` the stretch of each window that no other window along the axis shares; may be empty."""
    start = np.concatenate([[0], windows[:-1, 1]])
    stop = np.concatenate([windows[1:, 0], [length]])
    return np.stack([start, stop], axis=1)


def owned(instances: Instances, tile: Tile, grid: TileGrid) -> NDArray[np.bool_]:
    """Which tile-local instances the tile may speak for: those with a pixel in its core or just beside it.

    The few pixels of slack keep an object on the very border alive when both tiles draw it on the other's side;
    matching makes one of the two.
    """
    slack = min(grid.halo // 2, SLACK)
    core = tile.core.grow(slack, within=tile.window)
    row, col, row_stop, col_stop = core.shift(-tile.window.row, -tile.window.col).bounds
    box = instances.box
    meets = (box[:, 0] < row_stop) & (box[:, 2] > row) & (box[:, 1] < col_stop) & (box[:, 3] > col)
    sure = meets & (box[:, 0] >= row) & (box[:, 2] <= row_stop) & (box[:, 1] >= col) & (box[:, 3] <= col_stop)
    unsure = np.flatnonzero(meets & ~sure)
    if len(unsure):
        inside = instances.take(unsure).spans().clip(row, col, row_stop, col_stop)
        sure[unsure[np.unique(inside.owner)]] = True
    return sure


def make_readings(instances: Instances, tile: IntArray, lattice: Lattice) -> Readings:
    """Readings of one part.

    Args:
        instances: Work-grid coordinates, grouped by tile.
        tile: Tile index of each instance, `(n,)`, ascending.
        lattice: The job's grid.
    """
    grid = lattice.grid
    first = np.searchsorted(tile, tile)
    z, place = np.divmod(tile, grid.rows * grid.cols)
    row, col = np.divmod(place, grid.cols)
    box = instances.box.astype(np.int64)
    depth = np.full(len(tile), FAR, np.int64)
    sides = (
        (row > 0, box[:, 0] - lattice.row_window[row, 0]), (row < grid.rows - 1, lattice.row_window[row, 1] - box[:, 2]),
        (col > 0, box[:, 1] - lattice.col_window[col, 0]), (col < grid.cols - 1, lattice.col_window[col, 1] - box[:, 3]),
    )  # fmt: skip
    for is_inner, distance in sides:
        depth = np.where(is_inner, np.minimum(depth, distance), depth)
    closes = lattice.part(z, row, col)
    rows, cols = _unshared(lattice.row_window, grid.height)[row], _unshared(lattice.col_window, grid.width)[col]
    alone = (box[:, 0] >= rows[:, 0]) & (box[:, 2] <= rows[:, 1]) & (box[:, 1] >= cols[:, 0]) & (box[:, 3] <= cols[:, 1])
    shared = np.flatnonzero(~alone)
    for down, right in lattice.offsets:
        meets, there = meeting(box[shared], row[shared] + down, col[shared] + right, lattice)
        part = lattice.part(z[shared[meets]], *there)
        closes[shared[meets]] = np.maximum(closes[shared[meets]], part)
    visitor = (box[:, 0] >= lattice.row_core[row, 1]) | (box[:, 2] <= lattice.row_core[row, 0])
    visitor |= (box[:, 1] >= lattice.col_core[col, 1]) | (box[:, 3] <= lattice.col_core[col, 0])
    middle_row, middle_col = (box[:, 0] + box[:, 2] - 1) // 2, (box[:, 1] + box[:, 3] - 1) // 2
    home = (middle_row >= lattice.row_core[row, 0]) & (middle_row < lattice.row_core[row, 1])
    home &= (middle_col >= lattice.col_core[col, 0]) & (middle_col < lattice.col_core[col, 1])
    return Readings(
        instances=instances, key=tile * MOST_IN_TILE + (np.arange(len(tile)) - first), row=row, col=col,
        depth=depth, closes=closes, area=instances.area, home=home, visitor=visitor, alone=alone,
    )  # fmt: skip


def meeting(box: IntArray, row: IntArray, col: IntArray, lattice: Lattice) -> tuple[IntArray, tuple[IntArray, IntArray]]:
    """Positions of the boxes that meet the window of the tile at `(row, col)`, and those tiles' places."""
    grid = lattice.grid
    exists = np.flatnonzero((row >= 0) & (row < grid.rows) & (col >= 0) & (col < grid.cols))
    r, c, b = row[exists], col[exists], box[exists]
    meets = (b[:, 0] < lattice.row_window[r, 1]) & (b[:, 2] > lattice.row_window[r, 0])
    meets &= (b[:, 1] < lattice.col_window[c, 1]) & (b[:, 3] > lattice.col_window[c, 0])
    return exists[meets], (r[meets], c[meets])
