"""Bytes of a file by their place, also of one that is packed with gzip, without unpacking all that lies before them."""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from typing import Any, Protocol

from seggeo.errors import SourceError
from seggeo.io.slide_bytes import FileBytes

GZIP = b"\x1f\x8b"
_SPACING = 4 * 2**20
_ENTRY_POINTS = 2048
"""Of 32 KiB each, so that the index of a gzip stream stays under 64 MiB however long it is."""
_PIECE = 4 * 2**20


class Bytes(Protocol):
    """Bytes by their place, from any thread."""

    def read(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on.

        Raises:
            EOFError: There are fewer.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def open_bytes(path: str, needed: int, name: str) -> Bytes:
    """The bytes of a plain file or of a gzip stream, which must be at least `needed`.

    Raises:
        SourceError: There are fewer, or the stream is damaged.
    """
    if not is_gzip(path):
        size = os.path.getsize(path)
        if size < needed:
            raise _cut_off(name, size, needed)
        return FileBytes(path)
    if _stated_length(path) != needed % 2**32:
        # Not alarming by itself: streams of several parts, as bgzip writes, state the length of the last part only.
        _check_length(path, needed, name)
    return GzipBytes(path, needed)


def is_gzip(path: str) -> bool:
    """True for a file that starts as a gzip stream does."""
    with open(path, "rb") as file:
        return file.read(2) == GZIP


def read_head(path: str, count: int) -> bytes:
    """The first bytes of a file, unpacked, or fewer where it is shorter.

    Raises:
        EOFError: A gzip stream ends in them.
    """
    with gzip.open(path, "rb") if is_gzip(path) else open(path, "rb") as file:
        return file.read(count)


class GzipBytes:
    """Unpacked bytes of a gzip stream by their place; one thread reads at a time."""

    def __init__(self, path: str, needed: int) -> None:
        self._lock = threading.Lock()
        self._file = _indexed(path, max(_SPACING, needed // _ENTRY_POINTS)) or gzip.open(path, "rb")  # noqa: SIM115

    def read(self, count: int, offset: int) -> bytes:
        """See `Bytes`."""
        with self._lock:
            try:
                self._file.seek(offset)
                data = self._file.read(count)
            except zlib.error as error:
                raise OSError(str(error)) from error
        if len(data) != count:
            raise EOFError(f"{len(data)} of {count} bytes at {offset} of the unpacked stream")
        return bytes(data)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _indexed(path: str, spacing: int) -> Any:
    """A stream with entry points every `spacing` unpacked bytes; None where the library for it is not installed."""
    try:
        import indexed_gzip
    except ImportError:
        return None
    return indexed_gzip.IndexedGzipFile(path, spacing=spacing, buffer_size=_PIECE, drop_handles=False)


def _stated_length(path: str) -> int:
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _check_length(path: str, needed: int, name: str) -> None:
    total = 0
    try:
        with gzip.open(path, "rb") as file:
            while total < needed and (piece := file.read(_PIECE)):
                total += len(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(
            what=f"{name} is cut off or damaged", why=f"its gzip stream ends or breaks after {total} bytes: {error}",
            mend="copy or download the file again",
        ) from error  # fmt: skip
    if total < needed:
        raise _cut_off(name, total, needed)


def _cut_off(name: str, size: int, needed: int) -> SourceError:
    return SourceError(
        what=f"{name} is cut off: it has {size} bytes and should have at least {needed}",
        why="its header describes more voxels than there are",
        mend="copy or download the file again",
    )
