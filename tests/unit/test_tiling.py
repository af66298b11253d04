"""Cores partition the image, windows overlap as promised, seams are complete, and no size costs anything."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seggeo.errors import GeometryError
from seggeo.tiling import PartGrid, TileGrid

law = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def grids(draw):
    """Up to about ten tiles along an axis, whatever their size."""
    tile = draw(st.integers(4, 60))
    halo = draw(st.integers(0, tile // 4))
    most = 9 * max(1, tile - 2 * halo)
    return TileGrid(
        height=draw(st.integers(1, most)), width=draw(st.integers(1, most)), depth=draw(st.integers(1, 2)), tile=tile, halo=halo
    )


@law
@given(grids())
def test_every_pixel_lies_in_exactly_one_core(grid):
    times = np.zeros((grid.depth, grid.height, grid.width), int)
    for tile in grid:
        times[tile.z][tile.core.slices()] += 1

    assert (times == 1).all()


@law
@given(grids())
def test_windows_hold_their_cores_and_are_of_one_size(grid):
    for tile in grid:
        assert tile.window.contains(tile.core)
        assert tile.window.shape == (min(grid.tile, grid.height), min(grid.tile, grid.width))
        assert tile.window.row_stop <= grid.height
        assert tile.window.col_stop <= grid.width


@law
@given(grids())
def test_a_core_has_its_halo_on_every_inner_side(grid):
    for tile in grid:
        top, left, bottom, right = (abs(a - b) for a, b in zip(tile.core.bounds, tile.window.bounds, strict=True))
        inner = (tile.row > 0, tile.col > 0, tile.row < grid.rows - 1, tile.col < grid.cols - 1)

        assert all(
            side >= grid.halo if is_inner else side == 0
            for side, is_inner in zip((top, left, bottom, right), inner, strict=True)
        )


@law
@given(grids())
def test_seams_are_all_pairs_of_windows_that_meet(grid):
    """The last window of an axis is moved inwards and may meet the one before the one before."""
    tiles = list(grid)
    expected = {}
    for i, a in enumerate(tiles):
        for b in tiles[i + 1 :]:
            strip = a.window.intersect(b.window)
            if a.z == b.z and strip is not None:
                expected[a.index, b.index] = strip
    seams = list(grid.seams())

    assert {(s.a, s.b): s.strip for s in seams} == expected
    assert len(seams) == len(expected)
    assert all(s.a < s.b and s.z == tiles[s.a].z for s in seams)
    assert [s.a for s in seams] == sorted(s.a for s in seams)


@law
@given(grids())
def test_tiles_know_their_place(grid):
    assert len(grid) == grid.depth * grid.rows * grid.cols
    for i, tile in enumerate(grid):
        assert tile.index == i == grid.index(tile.z, tile.row, tile.col)
    for beyond in (-1, len(grid)):
        with pytest.raises(IndexError):
            grid[beyond]


@law
@given(grids())
def test_parts_partition_the_tiles_and_follow_from_the_grid_alone(grid):
    parts = PartGrid(grid=grid)
    tiles = [tile for part in range(len(parts)) for tile in parts.tiles(part)]

    assert sorted(tile.index for tile in tiles) == list(range(len(grid)))
    assert all(parts.part_of(tile) == part for part in range(len(parts)) for tile in parts.tiles(part))
    assert all(len(parts.tiles(part)) <= 64 for part in range(len(parts)))
    assert all([t.index for t in parts.tiles(part)] == sorted(t.index for t in parts.tiles(part)) for part in range(len(parts)))


def test_a_million_tiles_cost_nothing():
    tracemalloc.start()
    before = time.process_time()
    grid = TileGrid(height=896 * 1000 + 128, width=896 * 1000 + 128, tile=1024, halo=64)
    parts = PartGrid(grid=grid)
    facts = [len(grid), len(parts), grid[999_999].window.bounds, len(parts.tiles(len(parts) - 1)), next(grid.seams()).b]
    seconds, peak = time.process_time() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert facts[0] == 1_000_000
    assert facts[2] == (895_104, 895_104, 896_128, 896_128)
    assert seconds < 0.1
    assert peak < 100_000


def test_an_image_smaller_than_a_tile_is_one_tile():
    (tile,) = TileGrid(height=30, width=50, tile=1024, halo=64)

    assert tile.core == tile.window
    assert tile.window.shape == (30, 50)


@pytest.mark.parametrize("wrong", [{"height": 0}, {"tile": 0}, {"halo": -1}, {"halo": 26, "tile": 100}, {"depth": 0}])
def test_grids_that_cannot_be_are_refused(wrong):
    with pytest.raises(GeometryError):
        TileGrid(**{"height": 100, "width": 100, "tile": 64, "halo": 8, **wrong})
