"""Slides in TIFF files, decoded tile by tile from the raw bytes: SVS, OME-TIFF, ImageJ, LSM and plain pyramids.

tifffile reads the directories and says how a tile is to be decoded, imagecodecs decodes it (JPEG with libjpeg-turbo,
straight to RGB). Only tiles that are asked for are read.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.slide_array import READ_ERRORS, ArrayPyramid, array_block, array_slicer
from seggeo.io.slide_bytes import FileBytes, check_claim
from seggeo.io.slide_pyramid import Block, Pyramid, PyramidLevel, SlideFacts, check_block_bytes, damaged_slide
from seggeo.io.slide_tiff_facts import has_alpha, tiff_facts
from seggeo.io.slide_tiff_layout import TiffImage, TiffLayout, choose_layout, open_directories

_JPEG = {6, 7, 34892, 33007}
_YCBCR_JPEG2000 = 33003
"""Aperio's JPEG 2000 without colour transform: what is decoded is YCbCr."""
_ROWS = 1024
_STRIP_BYTES = 192 * 2**20
"""Strips behind a row of windows that fit the cache of blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffPlane:
    """Where the blocks of one page lie."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes | None
    """JPEG tables that all its tiles share."""

    def has(self, index: int) -> bool:
        """True for a block that was written."""
        return bool(self.counts[index] != 0 and self.offsets[index] != 0)


def open_tiff(path: str, name: str) -> Pyramid:
    """The slide in a TIFF.

    Raises:
        SourceError: Damaged, cut off, or not one plane.
    """
    with ExitStack() as opened:
        try:
            tif = opened.enter_context(open_directories(path))
            layout = choose_layout(tif, name)
            pyramid = _as_arrays(tif, path, layout, name) or _as_blocks(tif, path, layout, name)
        except SourceError:
            raise
        except READ_ERRORS as error:
            raise damaged_slide(name, error) from error
        opened.pop_all()
    return pyramid


class TiffPyramid:
    """A `Pyramid` over the tiles or strips of a TIFF."""

    def __init__(self, tif: Any, path: str, *, facts: SlideFacts, images: tuple[TiffImage, ...], name: str) -> None:
        self.facts = facts
        self._tif = tif
        self._name = name
        self._images = images
        self._decoders = [image.keyframe.decode for image in images]
        self._planes = [tuple(plane_of(page, image.keyframe) for page in image.planes) for image in images]
        self._bytes = FileBytes(path)

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """See `Pyramid`."""
        keyframe = self._images[level].keyframe
        samples = int(keyframe.samplesperpixel)
        together = keyframe.planarconfig == 1
        decoded: dict[tuple[int, int], NDArray[Any]] = {}
        wanted = [divmod(channel, samples) for channel in (*channels, *self._alpha(level))]
        for page, sample in wanted:
            key = page, 0 if together else sample
            if key not in decoded:
                values = self._segment(level, *key, row, col)
                if values is None:
                    return None
                decoded[key] = values
        if len(decoded) == 1 and together and [sample for _, sample in wanted] == list(range(samples)):
            values = next(iter(decoded.values()))
        else:
            parts = [decoded[page, 0][..., s] if together else decoded[page, s][..., 0] for page, s in wanted]
            values = np.stack(parts, axis=2)
        if len(wanted) == len(channels):
            return values, None
        return np.ascontiguousarray(values[..., :-1]), values[..., -1] != 0

    def close(self) -> None:
        """Release the file."""
        self._tif.close()
        self._bytes.close()

    def _alpha(self, level: int) -> tuple[int, ...]:
        return (len(self.facts.channels),) if has_alpha(self._images[level].keyframe) else ()

    def _segment(self, level: int, page: int, sample: int, row: int, col: int) -> NDArray[Any] | None:
        """One decoded tile or strip, `(h, w, samples)`; None where it was never written."""
        plane = self._planes[level][page]
        image = self.facts.levels[level]
        down, across = (-(-n // b) for n, b in zip(image.shape, image.block, strict=True))
        index = (sample * down + row) * across + col
        if plane is None or not plane.has(index):
            return None
        keyframe = self._images[level].keyframe
        try:
            raw = self._bytes.read(int(plane.counts[index]), int(plane.offsets[index]))
            check_claim(raw, int(keyframe.compression), image.block)
            return decode_block(raw, index, keyframe=keyframe, decoder=self._decoders[level], tables=plane.tables)
        except READ_ERRORS as error:
            where = f" in block {row}, {col} of level {level}"
            raise damaged_slide(self._name, error, where) from error


def _as_blocks(tif: Any, path: str, layout: TiffLayout, name: str) -> TiffPyramid:
    facts = tiff_facts(tif, layout, tuple(_level(image, layout.images[0], name) for image in layout.images), name)
    size = os.path.getsize(path)
    for image in layout.images:
        _check_complete(image, size, name)
        check_decoder(image.keyframe, name)
    if facts.levels[0].missing is not None and facts.levels[0].missing.all():
        raise SourceError(what=f"{name} has no pixels", why="none of its blocks was ever written", mend="export it again")
    return TiffPyramid(tif, path, facts=facts, images=layout.images, name=name)


def _as_arrays(tif: Any, path: str, layout: TiffLayout, name: str) -> ArrayPyramid | None:
    """The slide mapped into memory where its planes lie uncompressed in one piece, so that no strip is too wide."""
    series = layout.series
    if series is None or len(series.levels) != 1 or series.dataoffset is None or series.keyframe.is_tiled:
        return None
    dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    needed = series.dataoffset + int(np.prod(series.shape, dtype=np.int64)) * dtype.itemsize
    if needed > os.path.getsize(path):
        raise cut_off(name, os.path.getsize(path), needed)
    mapped = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
    shape = layout.images[0].shape
    level = PyramidLevel(shape=shape, downsample=(1.0, 1.0), block=array_block(shape, None))
    return ArrayPyramid(
        tiff_facts(tif, layout, (level,), name), [array_slicer(mapped, series.axes)], name=name, close=tif.close
    )


def _level(image: TiffImage, first: TiffImage, name: str) -> PyramidLevel:
    page, (rows, cols) = image.keyframe, first.shape
    height, width = image.shape
    block = (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else (min(int(page.rowsperstrip), height), width)
    if min(block) < 1:
        raise SourceError(what=f"{name} has blocks of {block} pixels", why="a side is at least 1", mend="export it again")
    pixel_bytes = int(page.samplesperpixel if page.planarconfig == 1 else 1) * np.dtype(page.dtype).itemsize
    level = PyramidLevel(
        shape=image.shape, downsample=(rows / height, cols / width), block=block, missing=_missing(image, block)
    )
    check_block_bytes(level, pixel_bytes, name)
    if not page.is_tiled and (min(height, _ROWS) + block[0]) * width * pixel_bytes > _STRIP_BYTES:
        raise SourceError(
            what=f"{name} has strips of {width} px and no tiles",
            why=f"a row of windows would need {(_ROWS + block[0]) * width * pixel_bytes >> 20} MiB of strips at once",
            mend="write it in tiles: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        )
    return level


def _missing(image: TiffImage, block: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Blocks that no plane has."""
    rows, cols = (-(-n // b) for n, b in zip(image.shape, block, strict=True))
    pages = [page for page in image.planes if page is not None]
    needed = rows * cols * (1 if image.keyframe.planarconfig == 1 else int(image.keyframe.samplesperpixel))
    for page in pages:
        listed = min(len(page.databytecounts), len(page.dataoffsets))
        if listed < needed:
            raise ValueError(f"{listed} blocks are listed where {needed} are needed")
    lost = [(np.asarray(p.databytecounts[:needed]) == 0) | (np.asarray(p.dataoffsets[:needed]) == 0) for p in pages]
    missing: NDArray[np.bool_] = np.all([one.reshape(-1, rows, cols).any(axis=0) for one in lost], axis=0)
    return missing if missing.any() else None


def _check_complete(image: TiffImage, size: int, name: str) -> None:
    for page in image.planes:
        if page is not None:
            ends = np.asarray(page.dataoffsets, np.uint64) + np.asarray(page.databytecounts, np.uint64)
            if int(ends.max(initial=0)) > size:
                raise cut_off(name, size, int(ends.max()))


def check_decoder(keyframe: Any, name: str) -> None:
    """Refuse pages of which no tile could be decoded; tifffile's decoder says so when it is asked for nothing.

    Raises:
        SourceError: None could.
    """
    try:
        keyframe.decode(None, 0)
    except (NotImplementedError, ValueError) as error:
        raise SourceError(
            what=f"{name} cannot be decoded",
            why=" ".join(str(error).split())[:300],
            mend="convert it: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        ) from error


def cut_off(name: str, size: int, needed: int) -> SourceError:
    """The refusal of a file that ends before its last block."""
    return SourceError(
        what=f"{name} is cut off: it has {size} bytes and should have at least {needed}",
        why="some of its blocks lie beyond its end",
        mend="copy or download the file again",
    )


def decode_block(raw: bytes, index: int, *, keyframe: Any, decoder: Any, tables: bytes | None) -> NDArray[Any]:
    """One tile or strip of these bytes, `(h, w, samples)`, cut at the image; `decoder` is `keyframe.decode`.

    Raises:
        One of `READ_ERRORS`: It is damaged.
    """
    shared = {"jpegtables": tables, "jpegheader": keyframe.jpegheader} if tables is not None else {}
    values, _, shape = decoder(raw, index, **shared)
    return _colours(values[0, : shape[1], : shape[2]], keyframe)


def plane_of(page: Any, keyframe: Any) -> TiffPlane | None:
    """Where the blocks of a page lie; None for one that is not in the file."""
    if page is None:
        return None
    tables = (page.jpegtables or b"") if keyframe.compression in _JPEG else None
    return TiffPlane(
        offsets=np.asarray(page.dataoffsets, np.int64), counts=np.asarray(page.databytecounts, np.int64), tables=tables
    )  # fmt: skip


def _colours(values: NDArray[Any], page: Any) -> NDArray[Any]:
    """RGB of a tile that was decoded as YCbCr."""
    if page.compression != _YCBCR_JPEG2000:
        return values
    return _ycbcr_to_rgb(values)


def _ycbcr_to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
    luma, blue, red = (values[..., i].astype(np.float32) - (0, 128, 128)[i] for i in range(3))
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    out: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return out
