"""A Cloud Optimized GeoTIFF of ids, written block by block in memory that does not grow with the raster.

Why not GDAL's COG driver: it needs a finished raster and walks every pixel of it, empty or not, several times (9 s of
CPU for each gigapixel that is nearly empty). Here

1. `CogWriter.put` takes the blocks of full resolution in row-major order, and `Pyramid` makes those of the overviews;
2. the blocks of each level are deflated and spooled as they come;
3. `CogWriter.finish` writes the header with all tile indices, then the spools, smallest overview first.

Blocks without an object are not stored: sparse tiles, which every GDAL reads as background.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from seggeo.geometry import Frame
from seggeo.output.pyramid import BLOCK, Block, Pyramid, pack
from seggeo.output.tiff import Level, gdal_tags, header


class CogWriter:
    """Takes the blocks of a label raster and leaves a Cloud Optimized GeoTIFF; a context manager."""

    def __init__(self, path: Path, frame: Frame, description: str) -> None:
        """Start the raster of `frame`; spools lie beside `path` until the context ends.

        Args:
            path: The file that `finish` writes.
            frame: Shape, transform and CRS; rotated and south-up transforms are kept.
            description: Of the band.
        """
        self._path = path
        self._tags = gdal_tags(frame, description)
        self._pyramid = Pyramid(frame, self._store)
        self._levels = [_Spool(path.with_name(f"{path.name}.{i}"), *shape) for i, shape in enumerate(self._pyramid.shapes)]

    def __enter__(self) -> CogWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for level in self._levels:
            level.close()

    def put(self, row: int, col: int, block: Block) -> None:
        """Add one block of full resolution, as `Pyramid.put` takes it."""
        self._pyramid.put(row, col, block)

    def finish(self) -> None:
        """Complete the overviews and write the file."""
        self._pyramid.finish()
        with self._path.open("wb") as target:
            target.write(header([level.index() for level in self._levels], self._tags, BLOCK))
            for spool in reversed(self._levels):
                spool.copy_to(target)

    def _store(self, level: int, row: int, col: int, block: Block) -> None:
        self._levels[level].store(row, col, block)


class _Spool:
    """One resolution on disk: its tiles, and where they lie."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._shape = height, width
        self._cols = -(-width // BLOCK)
        count = self._cols * -(-height // BLOCK)
        self._offset, self._size, self._length = np.zeros(count, np.uint64), np.zeros(count, np.uint32), 0
        self._path, self._file = path, _open(path)

    def store(self, row: int, col: int, block: Block) -> None:
        """Deflate a block and append it, its size before it and its last four bytes after it."""
        packed = pack(block)
        place = row * self._cols + col
        self._offset[place], self._size[place] = self._length + 4, len(packed)
        self._file.write(struct.pack("<I", len(packed)) + packed + packed[-4:])
        self._length += len(packed) + 8

    def index(self) -> Level:
        """Shape of this level and place of its tiles."""
        height, width = self._shape
        return Level(height=height, width=width, offset=self._offset, size=self._size, length=self._length)

    def copy_to(self, target: IO[bytes]) -> None:
        """Append all tiles to `target`."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, target, 1 << 20)

    def close(self) -> None:
        """Remove the spool."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _open(path: Path) -> IO[bytes]:
    return path.open("w+b")
