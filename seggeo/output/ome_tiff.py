"""The label raster as a pyramidal OME-TIFF, which napari, QuPath (Bio-Formats) and tifffile open with its size in micrometres.

The tiles are those of the label COG, byte for byte: `write_cog` makes them from the objects, block by block, and every level
holds ids of level 0 only. Here they are only copied into the other order: full resolution first, the smaller levels as its
SubIFDs. Tiles without a cell take no space, either, but by other means: GIS readers take a tile of no bytes for background,
TIFF itself does not know such tiles, and few readers of microscopy do. So all empty tiles are one and the same.

Volumes have pages instead of levels: `ome_tiff_volume`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tifffile

from seggeo.files import publishing
from seggeo.output.labels import write_cog
from seggeo.output.ome_tiff_meta import labels_metadata, physical_sizes
from seggeo.output.ome_tiff_volume import write_volume_tiff
from seggeo.output.pyramid import BLOCK
from seggeo.output.volume_labels import is_volume
from seggeo.protocols import Result, SinkOptions

_EMPTY = zlib.compress(bytes(4 * BLOCK * BLOCK), 9)
_BIG = 1 << 31
"""Bytes of tiles from which on the file is a BigTIFF: half of what a classic one could hold."""


def write_ome_tiff(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as an OME-TIFF, deflate, tiles of 512 px, and return `path`.

    uint32; of a volume uint16 where it holds all ids, a page for each slice. Physical sizes are those of the work grid; an
    annotation holds the transform from its (col, row) to full resolution, or a volume's placement. Same result, same bytes.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary:
        if is_volume(result.frame):
            write_volume_tiff(result, temporary)
        else:
            _write_plane(result, temporary, options)
    return path


def _write_plane(result: Result, temporary: Path, options: SinkOptions) -> None:
    blocks = write_cog(result, temporary.with_name("blocks.tif"), options)
    row, col = result.frame.spacing[1:]
    sizes = physical_sizes({"X": col, "Y": row}, result.frame.unit)
    with tifffile.TiffFile(blocks) as source:
        _copy(source, temporary, {"axes": "YX", **labels_metadata(result), **sizes})
    blocks.unlink()
    _fill(temporary)


def _copy(source: tifffile.TiffFile, path: Path, metadata: dict[str, Any]) -> None:
    levels = list(source.pages)
    layout: dict[str, Any] = {
        "dtype": "uint32", "tile": (BLOCK, BLOCK), "compression": "adobe_deflate", "predictor": 2, "photometric": "minisblack",
        "software": "seggeo",
    }  # fmt: skip
    size = source.filehandle.size
    # The file is ours to close: tifffile keeps to itself what goes wrong when it closes one.
    with path.open("w+b") as stream, tifffile.TiffWriter(stream, bigtiff=size >= _BIG, ome=True) as target:
        for i, page in enumerate(levels):
            how: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if i == 0:
                how = {"subifds": len(levels) - 1, "metadata": metadata}
            target.write(_tiles(source, page), shape=page.shape, **layout, **how)


def _tiles(source: tifffile.TiffFile, page: tifffile.TiffPage | tifffile.TiffFrame) -> Iterator[bytes]:
    """Packed tiles in row-major order, empty where there is nothing; tifffile takes bytes for tiles packed already."""
    places = zip(page.dataoffsets, page.databytecounts, strict=True)
    return (_read(source, offset, count) for offset, count in places)


def _fill(path: Path) -> None:
    """Let every tile of no bytes be one tile of zeros at the file's end."""
    with path.open("r+b") as stream, tifffile.TiffFile(stream) as target:
        end = target.filehandle.size
        for level in target.series[0].levels:
            page = level.keyframe
            if 0 not in page.databytecounts:
                continue
            offsets = tuple(o if n else end for o, n in zip(page.dataoffsets, page.databytecounts, strict=True))
            counts = tuple(count or len(_EMPTY) for count in page.databytecounts)
            page.tags["TileOffsets"].overwrite(offsets)
            page.tags["TileByteCounts"].overwrite(counts)
        target.filehandle.seek(end)
        target.filehandle.write(_EMPTY)


def _read(source: tifffile.TiffFile, offset: int, count: int) -> bytes:
    if count == 0:
        return b""
    source.filehandle.seek(offset)
    return bytes(source.filehandle.read(count))
