"""Reading a JPEG slide in overlapping windows: CPU seconds beside OpenSlide and plain tifffile, in one run.

    python benchmarks/slides.py [--mpx 1100] [--runs 1] [--image slide.svs] [--subsampling 422] [--threads 2]

An Aperio-like slide of `--mpx` megapixels (JPEG tiles of 256 px, quality 80, levels of 4x and 16x) is written into the
temporary folder from one picture; all windows of 1024 px with 128 px overlap are then read in the order of a run.

    seggeo      seggeo.io.slide.open_slide, one thread
    openslide   OpenSlide.read_region to RGB, its own cache of 32 MB, and one as large as seggeo's
    tifffile    the store of aszarr(), a region a window
    decode      every tile once through tifffile's decoder and nothing else: what no reader can beat by much

Rates count the pixels of the windows, so those that two windows share count twice. `differs` is the mean difference to
OpenSlide over some windows. With --threads the wall clock of that many threads reading through one source is added.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import tifffile
import zarr
from read import keep_memory, race

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io.slide import open_slide
from seggeo.io.slide_blocks import BLOCK_CACHE_BYTES
from seggeo.tiling import TileGrid

TILE = 256
SAMPLES = 40
SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


def picture(path: Path | None) -> np.ndarray:
    """RGB pixels whose sides are whole tiles: of a slide, or smooth noise that JPEG takes for tissue."""
    if path is not None:
        with open_slide(str(path), Reading(), native=False) as source:
            image = source.read(source.frame.window).data
    else:
        rng = np.random.default_rng(1)
        image = np.zeros((2048, 2048, 3))
        for step in (64, 16, 4):
            layer = rng.random((2048 // step, 2048 // step, 3))
            image += np.kron(layer, np.ones((step, step, 1)))
        image = (image / image.max() * 200 + 40).astype(np.uint8)
    rows, cols = image.shape[0] // TILE * TILE, image.shape[1] // TILE * TILE
    return np.ascontiguousarray(image[:rows, :cols])


def encoded(image: np.ndarray, subsampling: str) -> list[list[bytes]]:
    """The picture's tiles as JPEG, encoded once and used again and again."""
    options = {"level": 80, "colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": subsampling}
    return [
        [imagecodecs.jpeg8_encode(np.ascontiguousarray(image[r : r + TILE, c : c + TILE]), **options)
         for c in range(0, image.shape[1], TILE)] for r in range(0, image.shape[0], TILE)
    ]  # fmt: skip


def repeated(known: list[list[bytes]], side: int) -> Iterator[bytes]:
    count = -(-side // TILE)
    return (known[r % len(known)][c % len(known[0])] for r in range(count) for c in range(count))


def make(path: Path, side: int, image: np.ndarray, subsampling: str) -> None:
    """The slide; its smaller levels show the same picture at their own size, which reading does not care about."""
    known = encoded(image, subsampling)
    layout: dict[str, Any] = {"photometric": "ycbcr", "subsampling": SUBSAMPLING[subsampling], "compression": "jpeg"}
    text = f"Aperio Image Library v11\r\n{side}x{side} (256x256) JPEG Q=80|MPP = 0.25|AppMag = 40"
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for factor in (1, 4, 16):
            length = side // factor
            shape, data = (length, length, 3), repeated(known, length)
            out.write(data, shape=shape, dtype=np.uint8, tile=(TILE, TILE), description=text, metadata=None, **layout)


def windows(side: int) -> list[Window]:
    return [tile.window for tile in TileGrid(height=side, width=side, tile=1024, halo=64)]


def time_seggeo(path: Path, boxes: list[Window]) -> float:
    with open_slide(str(path), Reading(), native=False) as source:
        start = time.process_time()
        for box in boxes:
            source.read(box)
        return time.process_time() - start


def time_openslide(path: Path, boxes: list[Window], cache_bytes: int | None) -> float:
    slide = openslide.OpenSlide(str(path))
    if cache_bytes is not None:
        slide.set_cache(openslide.OpenSlideCache(cache_bytes))
    start = time.process_time()
    for box in boxes:
        np.asarray(slide.read_region((box.col, box.row), 0, (box.width, box.height)))[..., :3]
    spent = time.process_time() - start
    slide.close()
    return spent


def time_tifffile(path: Path, boxes: list[Window]) -> float:
    with tifffile.TiffFile(path) as tif:
        array = zarr.open(tif.aszarr(level=0), mode="r")
        start = time.process_time()
        for box in boxes:
            np.asarray(array[box.row : box.row_stop, box.col : box.col_stop])
        return time.process_time() - start


def time_decode(path: Path) -> float:
    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        page = tif.pages[0]
        start = time.process_time()
        for i, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            file.seek(offset)
            page.decode(file.read(count), i, jpegtables=page.jpegtables)
        return time.process_time() - start


def difference(path: Path, boxes: list[Window]) -> tuple[float, int]:
    """Mean and largest difference to OpenSlide."""
    slide = openslide.OpenSlide(str(path))
    total, largest = 0.0, 0
    chosen = boxes[:: max(1, len(boxes) // SAMPLES)]
    with open_slide(str(path), Reading(), native=False) as source:
        for box in chosen:
            theirs = np.asarray(slide.read_region((box.col, box.row), 0, (box.width, box.height)))[..., :3]
            apart = np.abs(source.read(box).data.astype(np.int16) - theirs)
            total, largest = total + float(apart.mean()), max(largest, int(apart.max()))
    slide.close()
    return total / len(chosen), largest


def wall(path: Path, boxes: list[Window], threads: int) -> float:
    with open_slide(str(path), Reading(), native=False) as source, ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for _ in pool.map(lambda box: source.read(box) is None, boxes):
            pass
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpx", type=float, default=1100, help="megapixels of the slide")
    parser.add_argument("--runs", type=int, default=1, help="turns; the best counts")
    parser.add_argument("--image", type=Path, help="a slide to take the picture from")
    parser.add_argument("--subsampling", default="422", choices=list(SUBSAMPLING))
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    keep_memory()
    side = int(sqrt(options.mpx * 1e6)) // 64 * 64
    boxes = windows(side)
    pixels = sum(box.area for box in boxes) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        make(path, side, picture(options.image), options.subsampling)
        print(f"{side} x {side} px, {path.stat().st_size / 1e6:.0f} MB, {len(boxes)} windows of {pixels:.0f} Mpx in all")
        jobs = {
            "seggeo": partial(time_seggeo, path, boxes),
            "openslide": partial(time_openslide, path, boxes, None),
            "openslide, large cache": partial(time_openslide, path, boxes, BLOCK_CACHE_BYTES),
            "tifffile aszarr": partial(time_tifffile, path, boxes),
            "decode only": partial(time_decode, path),
        }
        best = race(jobs, options.runs)
        print(f"{'':24}  CPU s  Mpx/s  seggeo is")
        for name, seconds in best.items():
            print(f"{name:24} {seconds:6.1f} {pixels / seconds:6.1f}  {seconds / best['seggeo']:8.2f}x")
        mean, largest = difference(path, boxes)
        print(f"differs from OpenSlide by {mean:.4f} in the mean, {largest} at most")
        if options.threads:
            one, many = wall(path, boxes, 1), wall(path, boxes, options.threads)
            print(f"wall clock: 1 thread {one:.1f} s, {options.threads} threads {many:.1f} s ({one / many:.2f}x)")


if __name__ == "__main__":
    main()
