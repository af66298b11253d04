"""Damaged files, seeded: cut short, bytes flipped, headers and directories edited; and what others read from them."""

from __future__ import annotations

import logging
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from support_io import noise, write
from support_slides import tissue, write_ome, write_svs
from support_unet import save_network, toy_network

HEADER_BYTES = 600


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to a file, and the file."""
    how = rng.choice(("cut", "flip", "flip", "head", "head"))
    if how == "cut":
        length = rng.randrange(len(data))
        return f"cut to {length} of {len(data)} bytes", data[:length]
    changed = bytearray(data)
    places = range(len(data)) if how == "flip" else head_of(data)
    picked = [rng.choice(places) for _ in range(rng.choice((1, 1, 2, 8)))]
    for place in picked:
        changed[place] = rng.choice((0, 255, changed[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return f"{how} at {picked}", bytes(changed)


def head_of(data: bytes) -> range:
    """Bytes where a file says what it is: the first directory of a TIFF, wherever it lies, else its beginning."""
    start = 0
    if data[:4] == b"II*\0":
        (start,) = struct.unpack("<I", data[4:8])
    elif data[:4] == b"II+\0":
        (start,) = struct.unpack("<Q", data[8:16])
    start = start if 0 < start < len(data) else 0
    return range(start, min(len(data), start + HEADER_BYTES))


def _raster(**options: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        write(path, tissue(170, 200).transpose(2, 0, 1), **options)

    return make


TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
IMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "strip": ("a.tif", _raster(blockysize=16)),
    "tiled": ("a.tif", _raster(**TILED, compress="deflate", predictor=2)),
    "jpeg": ("a.tif", _raster(**TILED, compress="jpeg", photometric="ycbcr")),
    "cog": ("a.tif", _raster(driver="COG", compress="deflate", blocksize=128)),
    "ome": ("a.ome.tif", lambda path: write_ome(path, noise((2, 170, 200), "uint16"), names=["DAPI", "CD3"])),
    "svs": ("a.svs", lambda path: write_svs(path, tissue(300, 340), factors=(4,))),
}
"""By kind: a name and what makes the file."""


def make_weights(path: Path) -> None:
    """A small U-Net."""
    save_network(toy_network(), path)


def readings(path: Path) -> list[NDArray[Any] | None]:
    """All pixels of an image, `(c, h, w)`, as rasterio and as tifffile read them in one go; None for one that cannot."""
    found: list[NDArray[Any] | None] = []
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for read in (_by_rasterio, _by_tifffile):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(read(path))
        except Exception:  # noqa: BLE001 - any refusal of theirs is one
            found.append(None)
    return found


def _by_rasterio(path: Path) -> NDArray[Any]:
    with rasterio.open(path, driver="GTiff") as image:
        if image.count * image.height * image.width > 1 << 26:
            raise ValueError("more than these files hold")
        pixels: NDArray[Any] = image.read()
        return pixels


def _by_tifffile(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as image:
        level = image.series[0].levels[0]
        if level.size > 1 << 26:
            raise ValueError("more than these files hold")
        pixels = level.asarray()
        axes = level.axes.replace("S", "C").replace("Q", "C").replace("I", "C")
    if "C" not in axes:
        return pixels.reshape(1, *pixels.shape[-2:])
    return np.moveaxis(pixels, axes.index("C"), 0)
