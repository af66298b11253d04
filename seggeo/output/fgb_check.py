"""Whether a FlatGeobuf holds all that GDAL was to write: its driver goes on where a write has failed.

After an error of the disk that passes, a file would be left that opens, says how many objects it has, and lacks a stretch of
its index or of its features. Every feature says its own length, and the index has the size that the number of features
gives it, so that one walk from length to length must end at the last byte.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from seggeo.errors import OutputError

_MAGIC = b"fgb\x03fgb\x01"
_MAGICS = (_MAGIC, b"fgb\x03fgb\x00")
_NODE_BYTES = 40
_NODE_SIZE = 16
"""Entries of an index node, as GDAL makes it."""


def check_fgb(path: Path, count: int) -> None:
    """Refuse a FlatGeobuf with spatial index that is not whole.

    Args:
        path: What GDAL wrote.
        count: Features that it was given.

    Raises:
        OutputError: Something is missing.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(_MAGIC)] not in _MAGICS:
            raise _broken(path, "its first bytes are not those of the format")
        at = len(_MAGIC) + 4 + _length(data, len(_MAGIC)) + index_bytes(count)
        for feature in range(count):
            if at + 4 > len(data):
                raise _broken(path, f"it ends before feature {feature + 1} of {count}")
            at += 4 + _length(data, at)
        if at != len(data):
            raise _broken(path, f"its {count} features should end at byte {at}, and it has {len(data)}")


def index_bytes(count: int) -> int:
    """Bytes of the packed Hilbert R-tree of so many features; none has no tree."""
    if not count:
        return 0
    nodes = level = count
    while level > 1:
        level = -(-level // _NODE_SIZE)
        nodes += level
    return max(nodes, 2) * _NODE_BYTES


def _length(data: mmap.mmap, at: int) -> int:
    (length,) = struct.unpack_from("<I", data, at)
    return int(length)


def _broken(path: Path, why: str) -> OutputError:
    return OutputError(
        what=f"{path.name} is not whole", why=f"{why}: GDAL gave up without saying so",
        mend="check the disk and run the same command again",
    )  # fmt: skip
