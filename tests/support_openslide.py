"""Small slides of formats that only OpenSlide reads: a Hamamatsu NDPI, a 3DHistech MRXS; and seeded damage to any file."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from support_slides import halved

_MRXS_ID = "00112233445566778899AABBCCDDEEFF"
_MRXS_LEVELS = 3
_MRXS_TILE = 256


def write_ndpi(path: Path, image: NDArray[np.uint8], *, mpp: float, properties: bytes = b"Created=2026\r\n") -> Path:
    """An NDPI of two images, each one JPEG strip, the second a quarter of the first.

    A TIFF but for this: its offsets of directories have 8 bytes, and after each directory come the upper halves of its values.
    """
    out, links = bytearray(b"II*\0" + b"\0" * 8), 4
    for factor in (1, 4):
        level = halved(image, factor)
        jpeg = imagecodecs.jpeg8_encode(level, level=90)
        strip, per_cm = len(out), struct.pack("<II", round(1e7 / (mpp * factor)), 1000)
        out += jpeg
        (height, width), count = level.shape[:2], 3
        tags: list[tuple[int, int, int, bytes]] = [
            (254, 4, 1, struct.pack("<I", 0)), (256, 4, 1, struct.pack("<I", width)), (257, 4, 1, struct.pack("<I", height)),
            (258, 3, count, struct.pack("<3H", 8, 8, 8)), (259, 3, 1, struct.pack("<H", 7)), (262, 3, 1, struct.pack("<H", 6)),
            (271, 2, 10, b"Hamamatsu\0"), (272, 2, 6, b"C9600\0"), (273, 4, 1, struct.pack("<I", strip)),
            (277, 3, 1, struct.pack("<H", count)), (278, 4, 1, struct.pack("<I", height)),
            (279, 4, 1, struct.pack("<I", len(jpeg))), (282, 5, 1, per_cm), (283, 5, 1, per_cm),
            (296, 3, 1, struct.pack("<H", 3)), (530, 3, 2, struct.pack("<2H", 2, 2)), (65420, 4, 1, struct.pack("<I", 1)),
            (65421, 11, 1, struct.pack("<f", 20.0 / factor)), *((code, 9, 1, b"\0" * 4) for code in (65422, 65423, 65424)),
            (65449, 2, len(properties) + 1, properties + b"\0"),
        ]  # fmt: skip
        fields = []
        for code, kind, n, value in tags:
            inside = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", len(out))
            out += b"" if len(value) <= 4 else value
            fields.append(struct.pack("<HHI", code, kind, n) + inside)
        struct.pack_into("<Q", out, links, len(out))
        out += struct.pack("<H", len(fields)) + b"".join(fields)
        links = len(out)
        out += b"\0" * (8 + 4 * len(fields))
    path.write_bytes(out)
    return path


def write_mrxs(path: Path, image: NDArray[np.uint8], *, mpp: float) -> Path:
    """An MRXS of a square image whose side is a multiple of 1024 px: thumbnail, and a folder of index, pixels and settings."""
    folder, count = path.with_suffix(""), image.shape[0] // _MRXS_TILE
    folder.mkdir()
    path.write_bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(image[:64, :64])))
    head = b"01.02" + _MRXS_ID.encode()
    pixels, records = bytearray(head), []
    for level in range(_MRXS_LEVELS):
        shown, step, found = halved(image, 2**level), 2**level, []
        for row in range(0, count, step):
            for col in range(0, count, step):
                corner = row // step * _MRXS_TILE, col // step * _MRXS_TILE
                tile = shown[corner[0] : corner[0] + _MRXS_TILE, corner[1] : corner[1] + _MRXS_TILE]
                jpeg = imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=85)
                found.append((row * count + col, len(pixels), len(jpeg), 0))
                pixels += jpeg
        records.append(found)
    (folder / "Data0000.dat").write_bytes(pixels)
    (folder / "Index.dat").write_bytes(_mrxs_index(head, records))
    (folder / "Slidedat.ini").write_text(_mrxs_settings(count, mpp))
    return path


def _mrxs_index(head: bytes, records: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Where each tile lies: a table of levels, each the head of a list with one page of records."""
    table = len(head) + 8
    lists, place = bytearray(), table + 4 * len(records)
    heads = []
    for found in records:
        heads.append(place + len(lists))
        lists += struct.pack("<iiii", 0, heads[-1] + 8, len(found), 0)
        lists += b"".join(struct.pack("<iiii", *record) for record in found)
    end = place + len(lists)
    return head + struct.pack("<ii", table, end) + struct.pack(f"<{len(heads)}i", *heads) + bytes(lists) + b"\0" * 4


def _mrxs_settings(count: int, mpp: float) -> str:
    levels = range(_MRXS_LEVELS)
    names = "".join(f"HIER_0_VAL_{i} = Zoom{i}\nHIER_0_VAL_{i}_SECTION = LEVEL_{i}\n" for i in levels)
    sections = "".join(
        f"[LEVEL_{i}]\nOVERLAP_X = 0\nOVERLAP_Y = 0\n"
        f"MICROMETER_PER_PIXEL_X = {mpp * 2**i}\nMICROMETER_PER_PIXEL_Y = {mpp * 2**i}\n"
        f"IMAGE_FORMAT = JPEG\nIMAGE_FILL_COLOR_BGR = 16777215\nDIGITIZER_WIDTH = {_MRXS_TILE}\n"
        f"DIGITIZER_HEIGHT = {_MRXS_TILE}\nIMAGE_CONCAT_FACTOR = {min(i, 1)}\n"
        for i in levels
    )
    return (
        f"[GENERAL]\nSLIDE_VERSION = 01.02\nSLIDE_ID = {_MRXS_ID}\nIMAGENUMBER_X = {count}\nIMAGENUMBER_Y = {count}\n"
        "OBJECTIVE_MAGNIFICATION = 20\nCameraImageDivisionsPerSide = 1\n"
        "[HIERARCHICAL]\nHIER_COUNT = 1\nNONHIER_COUNT = 0\nINDEXFILE = Index.dat\nHIER_0_NAME = Slide zoom level\n"
        f"HIER_0_COUNT = {_MRXS_LEVELS}\n{names}[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n{sections}"
    )


def damage(path: Path, rng: random.Random) -> None:
    """Change some bytes of a file: anywhere, near its ends, a number in it; or cut it off."""
    raw = bytearray(path.read_bytes())
    size = len(raw)
    match rng.choice(["anywhere", "head", "tail", "number", "zeros", "cut"]):
        case "anywhere":
            places = [rng.randrange(size) for _ in range(rng.choice([1, 4, 20]))]
        case "head":
            places = [rng.randrange(min(size, 1500)) for _ in range(rng.choice([1, 3, 10]))]
        case "tail":
            places = [size - 1 - rng.randrange(min(size, 3000)) for _ in range(rng.choice([1, 3, 10]))]
        case "number":
            place = rng.randrange(size - 4)
            raw[place : place + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\1\0\0\0"])
            places = []
        case "zeros":
            place = rng.randrange(size)
            raw[place : place + 64] = b"\0" * len(raw[place : place + 64])
            places = []
        case _:
            del raw[rng.randrange(size) :]
            places = []
    for place in places:
        raw[place] = rng.randrange(256)
    path.write_bytes(raw)
