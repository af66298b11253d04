"""Raw tiles of a file, from any thread, and what they claim to hold before anything is decoded."""

from __future__ import annotations

import os
import threading

_JPEG = {6, 7, 34892, 33007}
_JPEG2000 = {33003, 33004, 33005, 34712}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a JPEG frame."""
_SLACK = 2
"""A tile may hold up to this many times its side: encoders round up to whole blocks."""


class FileBytes:
    """Bytes of a file by their place, without a position that threads could fight over."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on.

        Raises:
            EOFError: The file ends before.
        """
        data = os.pread(self._file, count, offset) if hasattr(os, "pread") else self._seek(count, offset)
        if len(data) != count:
            raise EOFError(f"{len(data)} of {count} bytes at {offset}")
        return data

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _seek(self, count: int, offset: int) -> bytes:
        with self._lock:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, count)


def check_claim(raw: bytes, compression: int, block: tuple[int, int]) -> None:
    """Refuse a compressed tile that says it is much larger than its block: a decoder would make room for all of it.

    Raises:
        ValueError: It is.
    """
    size = _jpeg_size(raw) if compression in _JPEG else _jpeg2000_size(raw) if compression in _JPEG2000 else None
    if size is not None and (size[0] > _SLACK * max(block[0], 64) or size[1] > _SLACK * max(block[1], 64)):
        raise ValueError(f"a tile of {block[0]} x {block[1]} pixels claims {size[0]} x {size[1]}")


def _jpeg_size(raw: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG's frame header names."""
    place = 2
    while place + 9 <= len(raw) and raw[place] == 0xFF:
        marker = raw[place + 1]
        if marker in _FRAMES:
            return int.from_bytes(raw[place + 5 : place + 7]), int.from_bytes(raw[place + 7 : place + 9])
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xDA:
            return None
        place += 2 + int.from_bytes(raw[place + 2 : place + 4])
    return None


def _jpeg2000_size(raw: bytes) -> tuple[int, int] | None:
    """Rows and columns that a code stream's SIZ marker names."""
    start = raw.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or start + 24 > len(raw):
        return None
    right, bottom, left, top = (int.from_bytes(raw[start + i : start + i + 4]) for i in (8, 12, 16, 20))
    return bottom - top, right - left
