"""The label volume as OME-TIFF: one page for each slice, in the order of the input's axes, in flat memory.

Tiles are packed here and handed on as they come; those without an object are all the same few bytes, since most readers of
microscopy do not know tiles that are not there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from seggeo.output.ome_tiff_meta import labels_metadata, physical_sizes
from seggeo.output.pyramid import BLOCK, pack
from seggeo.output.volume_labels import FileGrid, Placed, filed, id_type, narrowed
from seggeo.protocols import Result

_BIG = 1 << 31
"""Bytes of unpacked ids from which on the file is a BigTIFF: half of what a classic one could hold."""
_GRAIN = 16
"""Sides of tiles are multiples of this."""


def write_volume_tiff(result: Result, path: Path) -> None:
    """Write the ids of all objects, uint16, or uint32 for more than 65535 objects; axes ZYX, or TYX for frames in time.

    Args:
        result: Of a volume.
        path: The file; another beside it may be used meanwhile.

    Raises:
        OSError: As the system says.
    """
    grid, kind = FileGrid.of(result.frame), id_type(result)
    depth, height, width = grid.shape
    tile = _side(height), _side(width)
    tiles = depth * -(-height // BLOCK) * -(-width // BLOCK)
    layout: dict[str, Any] = {
        "shape": grid.shape, "dtype": kind, "tile": tile, "compression": "adobe_deflate", "predictor": 2,
        "photometric": "minisblack", "software": "seggeo", "metadata": _metadata(result, grid),
    }  # fmt: skip
    is_big = depth * height * width * kind.itemsize + tiles * 2048 >= _BIG
    # The file is ours to close: tifffile keeps to itself what goes wrong when it closes one.
    with path.open("w+b") as stream, tifffile.TiffWriter(stream, bigtiff=is_big, ome=True) as target:
        target.write(_tiles(filed(result, path.parent), grid.shape, tile, kind), **layout)


def _side(length: int) -> int:
    return min(BLOCK, -(-length // _GRAIN) * _GRAIN)


def _tiles(
    placed: Iterable[Placed], shape: tuple[int, int, int], tile: tuple[int, int], kind: np.dtype[np.unsignedinteger[Any]]
) -> Iterator[bytes]:
    """Packed tiles, slice after slice in row-major order."""
    rows, cols = -(-shape[1] // BLOCK), -(-shape[2] // BLOCK)
    empty = zlib.compress(bytes(tile[0] * tile[1] * kind.itemsize), 9)
    places = ((z, row, col) for z in range(shape[0]) for row in range(rows) for col in range(cols))
    for z, row, col, block in placed:
        for place in places:
            if place == (z, row, col):
                break
            yield empty
        yield pack(narrowed(block[: tile[0], : tile[1]], kind))
    for _ in places:
        yield empty


def _metadata(result: Result, grid: FileGrid) -> dict[str, Any]:
    frame = result.frame
    names = "YX" if frame.is_series else "ZYX"
    sizes = physical_sizes(dict(zip(names, grid.spacing[-len(names) :], strict=True)), frame.unit)
    return {"axes": "TYX" if frame.is_series else "ZYX", **labels_metadata(result), **sizes}
