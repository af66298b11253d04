"""How an image is cut: cores that partition it, windows that overlap, seams where neighbours meet.

Along each axis windows of `tile` pixels start every `tile - 2 * halo` pixels; the last one is moved inwards so that
it is full size too. A core ends halfway through the overlap of two windows. Tile indices run row by row, slice by
slice. Nothing is stored per tile: a grid of a million tiles is five integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

from seggeo.errors import GeometryError
from seggeo.geometry import Window

SLACK = 8
"""Pixels beside its core of which a tile may still report."""
# A window meets its direct neighbours, and the one after where the last window of an axis is moved far inwards.
LATER_NEIGHBOURS = [(0, 1), (0, 2), *((down, right) for down in (1, 2) for right in range(-2, 3))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One unit of prediction."""

    index: int
    z: int
    row: int
    """Row of the tile in its grid (not pixels)."""
    col: int
    core: Window
    """The pixels this tile answers for."""
    window: Window
    """The pixels the model sees: the core and a halo."""

    @property
    def heard(self) -> Window:
        """The pixels that count: an instance without one of them is dropped, whatever else it has."""
        return self.core.grow(SLACK, within=self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """Two tiles whose windows meet, and the pixels both saw."""

    a: int
    b: int
    z: int
    strip: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """All tiles of a volume, a pure function of five integers."""

    height: int
    width: int
    depth: int = 1
    tile: int = 1024
    """Side of a window, px; cut to the image where that is smaller."""
    halo: int = 64
    """Context on each side of a core, px; neighbours overlap by twice this."""

    def __post_init__(self) -> None:
        if min(self.depth, self.height, self.width, self.tile) < 1 or self.halo < 0:
            raise GeometryError(
                what=f"no tiles of {self.tile} px with halo {self.halo} px in {self.depth} x {self.height} x {self.width}",
                why="sizes start at 1 and the halo at 0",
                mend="use --tile 1024 --overlap 128",
            )
        if 4 * self.halo > self.tile:
            raise GeometryError(
                what=f"an overlap of {2 * self.halo} px is more than half of a {self.tile} px tile",
                why="a pixel would be predicted more than four times over",
                mend=f"use --overlap {self.tile // 2} or less, or a larger --tile",
            )

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return _count(self.height, self.tile, self.halo)

    @property
    def cols(self) -> int:
        """Tiles from left to right."""
        return _count(self.width, self.tile, self.halo)

    def __len__(self) -> int:
        return self.depth * self.rows * self.cols

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        z, place = divmod(index, self.rows * self.cols)
        row, col = divmod(place, self.cols)
        top, bottom = self.row_core(row)
        left, right = self.col_core(col)
        first, last = self.row_window(row)
        west, east = self.col_window(col)
        return Tile(
            index=index, z=z, row=row, col=col,
            core=Window.from_bounds(top, left, bottom, right), window=Window.from_bounds(first, west, last, east),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def index(self, z: int, row: int, col: int) -> int:
        """Index of the tile at a place of the grid."""
        return (z * self.rows + row) * self.cols + col

    def row_window(self, row: int) -> tuple[int, int]:
        """First and one-past-last pixel row of the windows in tile row `row`."""
        return _window(row, self.height, self.tile, self.halo)

    def col_window(self, col: int) -> tuple[int, int]:
        """First and one-past-last pixel column of the windows in tile column `col`."""
        return _window(col, self.width, self.tile, self.halo)

    def row_core(self, row: int) -> tuple[int, int]:
        """First and one-past-last pixel row of the cores in tile row `row`."""
        return _core(row, self.rows, self.height, self.tile, self.halo)

    def col_core(self, col: int) -> tuple[int, int]:
        """First and one-past-last pixel column of the cores in tile column `col`."""
        return _core(col, self.cols, self.width, self.tile, self.halo)

    def seams(self) -> Iterator[Seam]:
        """Every pair of tiles of one slice whose windows meet, once, `a < b`, in order of `a`."""
        for tile in self:
            for down, right in LATER_NEIGHBOURS:
                row, col = tile.row + down, tile.col + right
                if row < self.rows and 0 <= col < self.cols:
                    other = self[self.index(tile.z, row, col)]
                    strip = tile.window.intersect(other.window)
                    if strip is not None:
                        yield Seam(a=tile.index, b=other.index, z=tile.z, strip=strip)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGrid:
    """Square blocks of tiles that are stored in one file each, of a volume in several slices; parts run block by block.

    Their size follows from the grid alone (about 16 blocks, at most 64 tiles each), never from the number of workers, so
    that any way of running a job makes the same files.
    """

    grid: TileGrid

    @property
    def layers(self) -> int:
        """Slices in a full block: 16 if there are so many, since chunks hold several, or as many as make 64 tiles."""
        if self.grid.depth == 1:
            return 1
        tiles = self._tiles
        return min(self.grid.depth, max(min(16, tiles), tiles // (self.grid.rows * self.grid.cols)))

    @property
    def side(self) -> int:
        """Tiles along one side of a full block."""
        return max(1, min(8, isqrt(self._tiles // self.layers)))

    @property
    def _tiles(self) -> int:
        return max(1, min(64, len(self.grid) // 16))

    @property
    def slabs(self) -> int:
        """Blocks from the first slice to the last."""
        return -(-self.grid.depth // self.layers)

    @property
    def rows(self) -> int:
        """Blocks from top to bottom."""
        return -(-self.grid.rows // self.side)

    @property
    def cols(self) -> int:
        """Blocks from left to right."""
        return -(-self.grid.cols // self.side)

    def __len__(self) -> int:
        return self.slabs * self.rows * self.cols

    def tiles(self, part: int) -> list[Tile]:
        """The tiles of one part, slice by slice and row by row."""
        slab, place = divmod(part, self.rows * self.cols)
        block_row, block_col = divmod(place, self.cols)
        slices = range(slab * self.layers, min((slab + 1) * self.layers, self.grid.depth))
        rows = range(block_row * self.side, min((block_row + 1) * self.side, self.grid.rows))
        cols = range(block_col * self.side, min((block_col + 1) * self.side, self.grid.cols))
        return [self.grid[self.grid.index(z, row, col)] for z in slices for row in rows for col in cols]

    def part_of(self, tile: Tile) -> int:
        """The part that holds a tile."""
        return (tile.z // self.layers * self.rows + tile.row // self.side) * self.cols + tile.col // self.side


def _count(length: int, tile: int, halo: int) -> int:
    step = max(1, tile - 2 * halo)
    return 1 if length <= tile else -(-(length - tile) // step) + 1


def _window(i: int, length: int, tile: int, halo: int) -> tuple[int, int]:
    start = max(0, min(i * (tile - 2 * halo), length - tile))
    return start, min(start + tile, length)


def _core(i: int, count: int, length: int, tile: int, halo: int) -> tuple[int, int]:
    start, stop = _window(i, length, tile, halo)
    if i > 0:
        start = (start + _window(i - 1, length, tile, halo)[1]) // 2
    if i < count - 1:
        stop = (stop + _window(i + 1, length, tile, halo)[0]) // 2
    return start, stop
