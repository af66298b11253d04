"""The label raster as a pyramidal OME-TIFF, which napari, QuPath (Bio-Formats) and tifffile open with its size in micrometres.

The tiles are those of the label COG, byte for byte: `write_cog` makes them from the objects, block by block, and every level
holds ids of level 0 only. Here they are only copied into the other order: full resolution first, the smaller levels as its
SubIFDs. Tiles without a cell take no space, either, but by other means: GIS readers take a tile of no bytes for background,
TIFF itself does not know such tiles, and few readers of microscopy do. So all empty tiles are one and the same.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import tifffile

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.features import provenance_text
from seggeo.output.labels import write_cog
from seggeo.output.pyramid import BLOCK
from seggeo.protocols import Result, SinkOptions

_MICROMETRES = {"um": 1.0, "mm": 1e3, "m": 1e6}
_EMPTY = zlib.compress(bytes(4 * BLOCK * BLOCK), 9)
_BIG = 1 << 31
"""Bytes of tiles from which on the file is a BigTIFF: half of what a classic one could hold."""


def write_ome_tiff(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all cells as a uint32 OME-TIFF, deflate, tiles of 512 px, and return `path`.

    Physical sizes are those of the work grid; an annotation (`seggeo`) holds the transform from its (col, row) to full
    resolution. Same result, same bytes.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary:
        blocks = write_cog(result, temporary.with_name("blocks.tif"), options)
        with tifffile.TiffFile(blocks) as source:
            _copy(source, temporary, _metadata(result))
        blocks.unlink()
        _fill(temporary)
    return path


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


def _metadata(result: Result) -> dict[str, Any]:
    provenance = provenance_text(result)
    about = {"transform": json.dumps(list(result.frame.transform)[:6]), "provenance": provenance}
    uuid = uuid5(NAMESPACE_URL, f"seggeo:labels:{provenance}")
    return {"axes": "YX", "UUID": f"urn:uuid:{uuid}", "Name": "instance id", "MapAnnotation": about, **_size(result.frame)}


def _size(frame: Frame) -> dict[str, Any]:
    if frame.unit not in _MICROMETRES:
        return {}
    row, col = (step * _MICROMETRES[frame.unit] for step in frame.spacing[1:])
    unit = "\N{MICRO SIGN}m"
    return {"PhysicalSizeX": col, "PhysicalSizeXUnit": unit, "PhysicalSizeY": row, "PhysicalSizeYUnit": unit}
