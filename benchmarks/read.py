"""Reading overlapped tiles: CPU seconds against one aligned decode and against plain rasterio windows, in one run.

    python benchmarks/read.py [--size 8192] [--runs 7] [--codecs deflate zstd jpeg] [--image FILE]

Rates are megapixels of the image (each pixel counted once) per CPU second; contestants take turns, and the best run counts.
  aligned   every pixel decoded once: 1024 px windows on block borders, through rasterio
  plain     the windows of a tile grid (tile 1024, overlap 128, in the order of a run) through rasterio
  plain 16  the same with a GDAL cache of 16 MiB, about what is left when many files or processes share one
  seggeo    the same windows through seggeo.io.open_raster, valid mask included
All but `plain 16` have the cache that seggeo sets, 192 MiB. Files are opened before the clock starts. Freed memory is kept by
the process, because otherwise the page faults of whoever runs first are a quarter of the time and hide the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io import open_raster
from seggeo.io.opening import GDAL_CACHE_BYTES
from seggeo.tiling import PartGrid, TileGrid

OPTIONS = {
    "deflate": {"compress": "deflate", "predictor": 2},
    "zstd": {"compress": "zstd", "predictor": 2},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
}
TILE, HALO = 1024, 64


def texture(image: Path | None) -> np.ndarray:
    """`(3, 2048, 2048)` uint8: a square of a real image, or blurred noise that compresses like one."""
    if image is not None:
        with rasterio.open(image) as ds:
            return ds.read([1, 2, 3], window=RasterWindow(0, 0, min(2048, ds.width), min(2048, ds.height)))
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 215, (3, 128, 128)).repeat(16, 1).repeat(16, 2).astype(np.int16)
    return np.clip(coarse + rng.integers(-6, 7, coarse.shape), 0, 255).astype(np.uint8)


def make(path: Path, size: int, codec: str, image: Path | None) -> None:
    """A tiled RGB file of `size` pixels a side."""
    square = texture(image)
    shape = {"width": size, "height": size, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel", "BIGTIFF": "IF_SAFER"}
    transform = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 5200000)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **shape, **layout, **OPTIONS[codec]) as out:
        for row in range(0, size, square.shape[1]):
            for col in range(0, size, square.shape[2]):
                height, width = min(square.shape[1], size - row), min(square.shape[2], size - col)
                out.write(square[:, :height, :width], window=RasterWindow(col, row, width, height))


def tile_windows(size: int) -> list[Window]:
    """Windows in the order in which a run visits them."""
    parts = PartGrid(grid=TileGrid(height=size, width=size, tile=TILE, halo=HALO))
    return [tile.window for part in range(len(parts)) for tile in parts.tiles(part)]


def aligned_windows(size: int) -> list[Window]:
    """Squares on block borders that partition the image."""
    sides = [(start, min(TILE, size - start)) for start in range(0, size, TILE)]
    return [Window(row=row, col=col, height=height, width=width) for row, height in sides for col, width in sides]


def time_rasterio(path: Path, windows: list[Window], cache_mib: int = GDAL_CACHE_BYTES >> 20) -> float:
    """CPU seconds of plain windows."""
    with rasterio.Env(GDAL_CACHEMAX=cache_mib << 20), rasterio.open(path) as ds:
        start = time.process_time()
        for w in windows:
            ds.read(window=RasterWindow(w.col, w.row, w.width, w.height))
        return time.process_time() - start


def time_seggeo(path: Path, windows: list[Window]) -> float:
    """CPU seconds of the same windows through seggeo."""
    with open_raster(str(path), Reading(), native=False) as source:
        start = time.process_time()
        for window in windows:
            source.read(window)
        return time.process_time() - start


def keep_memory() -> None:
    """Stop glibc from giving freed memory back; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-3, 2**25)):  # trim threshold, top pad, mmap threshold
            libc.mallopt(option, value)


def race(contestants: dict[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """Least CPU seconds of each, in turns so that a busy machine disturbs all alike."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(runs):
        for name, job in contestants.items():
            best[name] = min(best[name], job())
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help="side of the image, px")
    parser.add_argument("--runs", type=int, default=7, help="turns; the best counts")
    parser.add_argument("--codecs", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--image", type=Path, help="take the pixels from this RGB raster")
    options = parser.parse_args()
    keep_memory()
    windows, squares = tile_windows(options.size), aligned_windows(options.size)
    print(f"{options.size} x {options.size} x 3 uint8, blocks of 512, {len(windows)} windows; Mpx per CPU second (x aligned)")
    print(f"{'codec':8} {'aligned':>9} {'plain':>15} {'plain 16':>15} {'seggeo':>15}")
    with tempfile.TemporaryDirectory() as folder:
        for codec in options.codecs:
            path = Path(folder) / f"{codec}.tif"
            make(path, options.size, codec, options.image)
            jobs: dict[str, Callable[[], float]] = {
                "aligned": partial(time_rasterio, path, squares),
                "plain": partial(time_rasterio, path, windows),
                "plain 16": partial(time_rasterio, path, windows, 16),
                "seggeo": partial(time_seggeo, path, windows),
            }
            rate = {name: options.size**2 / seconds / 1e6 for name, seconds in race(jobs, options.runs).items()}
            cells = [f"{rate[name]:8.0f} ({rate[name] / rate['aligned']:.2f})" for name in ("plain", "plain 16", "seggeo")]
            print(f"{codec:8} {rate['aligned']:9.0f} " + " ".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
