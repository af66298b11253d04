"""The cache of computed rectangles: right windows, nothing made twice, memory kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_io import noise, random_windows

from seggeo.geometry import Window
from seggeo.io.blocks import SlabCache, _rectangles
from seggeo.tiling import PartGrid, TileGrid


class Counted:
    """An image that counts how often each pixel is made."""

    def __init__(self, height: int, width: int) -> None:
        self.data = noise((2, height, width))
        self.valid = noise((height, width), seed=5) > 40
        self.made = np.zeros((height, width), int)

    def decode(self, window: Window):
        self.made[window.slices()] += 1
        return self.data[:, *window.slices()].copy(), self.valid[window.slices()].copy()

    def cache(self, block: tuple[int, int], memory_bytes: int) -> SlabCache:
        frame = Window(row=0, col=0, height=self.valid.shape[0], width=self.valid.shape[1])
        return SlabCache(frame=frame, block=block, memory_bytes=memory_bytes, decode=self.decode)


@pytest.mark.parametrize("memory_bytes", [0, 20_000, 10**9])
@pytest.mark.parametrize("block", [(16, 16), (7, 300), (1, 64), (500, 500)])
def test_windows_are_those_of_the_image(block: tuple[int, int], memory_bytes: int):
    image = Counted(210, 290)
    cache = image.cache(block, memory_bytes)
    for window in random_windows(210, 290, 40):
        data, valid = cache.read(window)
        np.testing.assert_array_equal(data, image.data[:, *window.slices()])
        np.testing.assert_array_equal(valid, image.valid[window.slices()])


def test_overlapping_tiles_make_each_block_once():
    image = Counted(700, 900)
    cache = image.cache((32, 32), 10**9)
    for tile in TileGrid(height=700, width=900, tile=128, halo=16):
        cache.read(tile.window)
    assert (image.made == 1).all()


def test_the_memory_of_two_rows_of_tiles_is_enough_inside_a_part():
    parts = PartGrid(grid=TileGrid(height=2000, width=2000, tile=128, halo=16))
    image = Counted(2000, 2000)
    tiles = parts.tiles(0)
    width = max(tile.window.col_stop for tile in tiles) + 32
    cache = image.cache((32, 32), 2 * 3 * width * 160)
    for tile in tiles:
        cache.read(tile.window)
    assert image.made.max() == 1
    assert cache._held_bytes <= 2 * 3 * width * 160


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**20 - 1))
def test_rectangles_partition_the_missing_cells(bits: int):
    missing = np.array([bits >> i & 1 for i in range(20)], bool).reshape(4, 5)
    count = np.zeros((4, 5), int)
    for window in _rectangles(missing):
        count[window.slices()] += 1
    np.testing.assert_array_equal(count, missing)
