"""CZI files for tests, written by Zeiss's own library, and changed where that cannot write what scanners do."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw, which writes CZI files, is not installed")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A subblock to be written."""

    image: NDArray[Any]
    """`(h, w)` or, red first, `(h, w, 3)`."""
    row: int = 0
    col: int = 0
    plane: Mapping[str, int] | None = None
    scene: int = 0


def write_czi(
    path: Path, pieces: Sequence[Piece], *, names: Sequence[str] = (), mpp: float | None = 0.25, how: str = "uncompressed:"
) -> Path:  # fmt: skip
    """A CZI of these subblocks, in this order; later ones lie on top."""
    with czi.create_czi(str(path), exist_ok=True, compression_options=how) as file:
        for piece in pieces:
            image = piece.image[..., None] if piece.image.ndim == 2 else np.ascontiguousarray(piece.image[..., ::-1])
            file.write(image, location=(piece.col, piece.row), plane={"C": 0, **(piece.plane or {})}, scene=piece.scene)
        scale = 0.0 if mpp is None else mpp * 1e-6
        file.write_metadata("test", channel_names=dict(enumerate(names)), scale_x=scale, scale_y=scale)
    return path


def read_with_zeiss(path: Path, plane: Mapping[str, int] | None = None, zoom: float | None = None) -> NDArray[Any]:
    """All of a CZI `(h, w, c)`, red first, as Zeiss's library shows it."""
    with czi.open_czi(str(path)) as file:
        box = file.total_bounding_rectangle
        image = np.asarray(file.read(roi=(box.x, box.y, box.w, box.h), plane={"C": 0, **(plane or {})}, zoom=zoom))
    return image[..., ::-1]


def entries(data: bytes) -> list[int]:
    """Where the entries of the directory begin."""
    (directory,) = struct.unpack_from("<q", data, 32 + 52)
    (count,) = struct.unpack_from("<i", data, directory + 32)
    found, at = [], directory + 32 + 128
    for _ in range(count):
        found.append(at)
        at += 32 + 20 * struct.unpack_from("<i", data, at + 28)[0]
    return found


def change_entry(data: bytearray, number: int, *, place: Mapping[str, tuple[int, int, int]] | None = None, **said: int) -> None:
    """Change what an entry says, in the directory and in the subblock itself.

    Args:
        data: The file.
        number: Of the entry.
        place: Start, size and stored size by dimension.
        said: `pixel`, `compression` or `pyramid`.
    """
    at = entries(data)[number]
    (position,) = struct.unpack_from("<q", data, at + 6)
    for start in (at, position + 32 + 16):
        for name, value in said.items():
            offset, kind = {"pixel": (2, "<i"), "compression": (18, "<i"), "pyramid": (22, "<B")}[name]
            struct.pack_into(kind, data, start + offset, value)
        for i in range(struct.unpack_from("<i", data, start + 28)[0]):
            one = start + 32 + 20 * i
            axis = bytes(data[one : one + 4]).rstrip(b"\0").decode()
            if axis in (place or {}):
                first, size, stored = place[axis]
                struct.pack_into("<4siifi", data, one, axis.encode(), first, size, float(first), stored)


def replace_pixels(data: bytearray, number: int, pixels: bytes) -> None:
    """Other pixel data in a subblock, no longer than those it had."""
    (position,) = struct.unpack_from("<q", data, entries(data)[number] + 6)
    metadata, _, length = struct.unpack_from("<iiq", data, position + 32)
    (count,) = struct.unpack_from("<i", data, position + 32 + 16 + 28)
    start = position + 32 + max(256, 16 + 32 + 20 * count) + metadata
    assert len(pixels) <= length
    data[start : start + len(pixels)] = pixels
    struct.pack_into("<q", data, position + 32 + 8, len(pixels))
