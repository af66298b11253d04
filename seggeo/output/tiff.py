"""The byte layout of a Cloud Optimized GeoTIFF: header, directories with their tile indices, then the tiles.

GDAL itself encodes the georeference, in a 1 x 1 GeoTIFF whose tags are taken over byte by byte. BigTIFF is used only
where 4 GiB do not do, since some readers know the classic kind only.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from seggeo.geometry import Frame

Field = tuple[int, int, bytes]
"""TIFF field: type, count and little-endian values."""

_SHORT, _LONG, _LONG8 = 3, 4, 16
_SIZES = {1: 1, 2: 1, _SHORT: 2, _LONG: 4, 12: 8}
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
_METADATA, _NODATA = 42112, 42113
_PROMISE = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_PROMISE) + _PROMISE


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of the raster and where its tiles lie."""

    height: int
    width: int
    offset: NDArray[np.uint64]
    """Of each tile from the start of the level's own run of tiles, row by row."""
    size: NDArray[np.uint32]
    """Bytes of each tile; 0 where it is not stored and reads as background."""
    length: int
    """Bytes of all tiles of the level."""


def header(levels: Sequence[Level], tags: Mapping[int, Field], tile: int) -> bytes:
    """Everything before the tiles; the levels' runs of tiles follow it, smallest level first.

    Args:
        levels: Full resolution first, then overviews by falling size; uint32, deflate with horizontal differencing.
        tags: Of the full-resolution directory, as `gdal_tags` gives them; nodata goes into every directory.
        tile: Side of a tile, px.
    """
    total = sum(level.length for level in levels)
    # Fields of a tile index and of the directory: at most 20 bytes a tile and 4 KiB a level.
    room = sum(20 * len(level.size) + 4096 for level in levels) + sum(len(t[2]) for t in tags.values())
    is_big = total + room >= 1 << 32
    starts = [0] * len(levels)
    length = len(_build(levels, tags, starts, (tile, is_big)))
    for i in reversed(range(len(levels))):
        starts[i] = length if i == len(levels) - 1 else starts[i + 1] + levels[i + 1].length
    return _build(levels, tags, starts, (tile, is_big))


def gdal_tags(frame: Frame, description: str) -> dict[int, Field]:
    """Georeference, nodata 0 and band description as GDAL encodes them."""
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        profile = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint32", "nodata": 0, "bigtiff": "NO"}
        with memory.open(**profile, crs=frame.crs, transform=frame.transform, endianness="little") as raster:
            raster.set_band_description(1, description)
        return _read_tags(bytes(memory.getbuffer()), (*_GEOREFERENCE, _METADATA, _NODATA))


def _build(levels: Sequence[Level], tags: Mapping[int, Field], starts: Sequence[int], how: tuple[int, bool]) -> bytes:
    tile, is_big = how
    magic = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if is_big else struct.pack("<2sHI", b"II", 42, 0)
    first = len(magic) + len(_GHOST)
    first += first % 2
    where = struct.pack("<Q" if is_big else "<I", first)
    content = (magic[: -len(where)] + where + _GHOST).ljust(first, b"\0")
    for i, level in enumerate(levels):
        kept = tags if i == 0 else {code: tags[code] for code in tags if code == _NODATA}
        fields = {**_fields(level, starts[i], tile, is_big), **kept}
        if i > 0:
            fields[254] = _long(1)  # reduced resolution
        content += _directory(fields, len(content), is_last=i == len(levels) - 1, is_big=is_big)
    return content


def _fields(level: Level, start: int, tile: int, is_big: bool) -> dict[int, Field]:
    count = len(level.size)
    offset = np.where(level.size > 0, level.offset + np.uint64(start), 0)
    kind, dtype = (_LONG8, "<u8") if is_big else (_LONG, "<u4")
    return {
        256: _long(level.width), 257: _long(level.height),
        258: _short(32), 259: _short(8), 262: _short(1), 277: _short(1), 284: _short(1), 317: _short(2), 339: _short(1),
        322: _short(tile), 323: _short(tile),
        324: (kind, count, offset.astype(dtype).tobytes()), 325: (_LONG, count, level.size.astype("<u4").tobytes()),
    }  # fmt: skip


def _directory(fields: Mapping[int, Field], at: int, *, is_last: bool, is_big: bool) -> bytes:
    number, entry, word = ("<Q", "<HHQ", "<Q") if is_big else ("<H", "<HHI", "<I")
    inline = struct.calcsize(word)
    behind = at + struct.calcsize(number) + (struct.calcsize(entry) + inline) * len(fields) + inline
    table, values = [struct.pack(number, len(fields))], bytearray()
    for code in sorted(fields):
        kind, count, content = fields[code]
        value = content.ljust(inline, b"\0")
        if len(content) > inline:
            value = struct.pack(word, behind + len(values))
            values += content + b"\0" * (len(content) % 2)
        table.append(struct.pack(entry, code, kind, count) + value)
    table.append(struct.pack(word, 0 if is_last else behind + len(values)))
    return b"".join(table) + bytes(values)


def _read_tags(content: bytes, wanted: tuple[int, ...]) -> dict[int, Field]:
    (directory,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, directory)
    tags: dict[int, Field] = {}
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        code, kind, count = struct.unpack_from("<HHI", content, at)
        if code in wanted:
            length = _SIZES[kind] * count
            start = at + 8 if length <= 4 else struct.unpack_from("<I", content, at + 8)[0]
            tags[code] = (kind, count, content[start : start + length])
    return tags


def _short(value: int) -> Field:
    return _SHORT, 1, struct.pack("<H", value)


def _long(value: int) -> Field:
    return _LONG, 1, struct.pack("<I", value)
