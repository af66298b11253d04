"""Reading windows with context: CPU seconds against one aligned decode of the same pixels, in one run.

    python benchmarks/context.py [--runs 3] [--codec deflate]

A model with context sees more than its tile's window, so neighbouring reads share more blocks. The file is 28672 px wide
and high (parts of 8 x 8 tiles, the largest there are) and holds only what two neighbouring parts read; these are read
through seggeo.io.open_raster in the order of a run. Times are relative to decoding the same area once on block borders;
`loads` counts how often a block is decoded by a least-recently-used cache of the size that GDAL is given, over ten parts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow
from read import OPTIONS, keep_memory, race, texture, time_rasterio, time_seggeo

from seggeo.geometry import Window
from seggeo.io.opening import GDAL_CACHE_BYTES
from seggeo.protocols import ModelInfo
from seggeo.tiling import PartGrid, TileGrid

SIDE = 28672
BLOCK = 512
CASES = [
    (1024, 128, 0, 1),
    (1024, 128, 64, 16),
    (1024, 128, 112, 16),
    (2048, 64, 0, 1),
    (2048, 64, 112, 16),
    (1024, 128, 256, 32),
]
"""Tile, overlap, context and stride, px."""


def extents(tile: int, overlap: int, context: int, stride: int, count: int = 2) -> list[Window]:
    """What a run reads for the first `count` parts, in its order."""
    parts = PartGrid(grid=TileGrid(height=SIDE, width=SIDE, tile=tile, halo=overlap // 2))
    info = ModelInfo(name="any", context=context, stride=stride)
    whole = Window(row=0, col=0, height=SIDE, width=SIDE)
    return [info.extent(place.window, within=whole) for part in range(min(count, len(parts))) for place in parts.tiles(part)]


def aligned(windows: list[Window]) -> list[Window]:
    """Squares of two blocks a side that cover the blocks of these windows once."""
    rows, cols = (-(-max(stops) // BLOCK) * BLOCK for stops in zip(*(w.bounds[2:] for w in windows), strict=True))
    downs, acrosses = (pairwise([*range(0, length, 2 * BLOCK), length]) for length in (min(rows, SIDE), min(cols, SIDE)))
    across = list(acrosses)
    return [Window.from_bounds(top, left, bottom, right) for top, bottom in downs for left, right in across]


def loads(windows: list[Window], cache_bytes: int) -> float:
    """Decodes per block of a least-recently-used cache."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    seen, decoded = set(), 0
    for window in windows:
        for row in range(window.row // BLOCK, (window.row_stop - 1) // BLOCK + 1):
            for col in range(window.col // BLOCK, (window.col_stop - 1) // BLOCK + 1):
                seen.add((row, col))
                decoded += (row, col) not in cache
                cache[row, col] = None
                cache.move_to_end((row, col))
                if len(cache) > cache_bytes // (BLOCK * BLOCK * 3):
                    cache.popitem(last=False)
    return decoded / len(seen)


def make(path: Path, height: int, width: int, codec: str) -> None:
    """A sparse RGB file with pixels in its upper left corner only."""
    square = np.ascontiguousarray(texture(None)[:, :2048, :2048])
    layout = {
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "sparse_ok": True,
        "bigtiff": "yes",
    }
    shape = {"width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    transform = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 5200000)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **shape, **layout, **OPTIONS[codec]) as out:
        for row in range(0, height, 2048):
            for col in range(0, width, 2048):
                out.write(square, window=RasterWindow(col, row, 2048, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns; the best counts")
    parser.add_argument("--codec", default="deflate", choices=list(OPTIONS))
    options = parser.parse_args()
    keep_memory()
    plans = {case: extents(*case) for case in CASES}
    stops = [window.bounds[2:] for windows in plans.values() for window in windows]
    height, width = (-(-max(axis) // 2048) * 2048 for axis in zip(*stops, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corner.tif"
        make(path, min(height, SIDE), min(width, SIDE), options.codec)
        print("tile  overlap  context  stride  aligned s  seggeo s  ratio  loads")
        for case, windows in plans.items():
            jobs = {"aligned": partial(time_rasterio, path, aligned(windows)), "seggeo": partial(time_seggeo, path, windows)}
            best = race(jobs, options.runs)
            tile, overlap, context, stride = case
            again = loads(extents(*case, count=10), GDAL_CACHE_BYTES)
            seconds = f"{best['aligned']:9.2f} {best['seggeo']:9.2f} {best['seggeo'] / best['aligned']:6.2f}"
            print(f"{tile:4} {overlap:8} {context:8} {stride:7} {seconds} {again:7.3f}", flush=True)


if __name__ == "__main__":
    main()
