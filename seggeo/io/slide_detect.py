"""What is a slide and which library opens it, by content: extensions lie, and a georeferenced TIFF stays a raster."""

from __future__ import annotations

import os
from typing import Any

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.checks import check_input, read_header, sniff
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_pyramid import Pyramid, damaged_slide
from seggeo.io.tiff import check_complete, read_directories

_GEO_TAGS = (33550, 33922, 34264, 34735, 42112, 42113)
"""Position on the ground, and GDAL's own metadata and nodata value."""
_SIDE_FILES = (".tfw", ".tifw", ".wld", ".aux.xml")
_MICROSCOPES = ("svs", "ome", "imagej", "lsm", "ndpi", "scn", "philips", "bif", "qpi", "indica", "fluoview", "stk", "sis")
_OPENSLIDE_TIFFS = ("ndpi", "scn", "philips", "bif")
"""Their images are laid out on a slide, and only OpenSlide knows where."""
_OPENSLIDE_ENDINGS = (".mrxs", ".vms", ".vmu", ".svslide")
"""Slides of several files; the first of an MRXS is a JPEG, and must never be taken for a photograph."""
_CZI = b"ZISRAWFILE"
_VSI = ".vsi"
"""A TIFF of thumbnails."""
_DICOM = slice(128, 132)
_LARGEST_SIDE = 8192
_OFFSETS_END = 2**32
"""An NDPI of this size keeps the upper halves of its offsets elsewhere, so nothing can be said of its blocks."""


def is_slide(path: str) -> bool:
    """True for what `open_slide` should read: microscopes' files and folders, and pyramids without a place on the ground."""
    if "://" in path:
        return False
    full = os.path.abspath(path)
    if os.path.isdir(full):
        from seggeo.io.slide_zarr import is_zarr

        return is_zarr(full)
    try:
        header = read_header(full)
    except SourceError:
        return False
    if header[_DICOM] == b"DICM":  # first: the 128 bytes before it are free, and may be a TIFF's
        return True
    if sniff(header) == "GTiff":
        return _is_slide_tiff(full) or full.lower().endswith(_VSI)
    return header.startswith(_CZI) or _is_by_openslide(full)


def open_pyramid(path: str, name: str, reading: Reading) -> Pyramid:
    """The slide at an absolute path, through the library that knows its format.

    Raises:
        SourceError: Missing, empty, not a slide, damaged or refused.
    """
    if os.path.isdir(path):
        from seggeo.io.slide_zarr import open_zarr

        return open_zarr(path, name)
    header = read_header(path)
    if header.startswith(_CZI):
        from seggeo.io.slide_czi import open_czi

        return open_czi(path, name)
    if path.lower().endswith(_VSI):
        raise SourceError(
            what=f"{name} is an Olympus VSI",
            why="its pixels lie in .ets files of a folder beside it, which no library under a permissive licence reads yet",
            mend="convert it: bioformats2raw IN OUT.zarr, or bfconvert IN OUT.ome.tif",
        )
    if sniff(header) == "GTiff" and header[_DICOM] != b"DICM":
        return _open_tiff(path, name)
    if header[_DICOM] == b"DICM" or _is_by_openslide(path):
        from seggeo.io.slide_openslide import open_with_openslide

        return open_with_openslide(path, name)
    driver = check_input(path, reading).drivers[0]
    raise SourceError(
        what=f"{name} is no slide", why=f"it is a plain {driver} image", mend="open it as a raster: seggeo segment"
    )


def _open_tiff(path: str, name: str) -> Pyramid:
    from seggeo.io.slide_openslide import detect, open_with_openslide
    from seggeo.io.slide_tiff import open_tiff

    vendor = detect(path)
    if vendor not in (None, "aperio", "generic-tiff") or _needs_openslide(path):
        if vendor != "hamamatsu" or os.path.getsize(path) < _OFFSETS_END:
            _check_blocks(path, name)
        return open_with_openslide(path, name)
    return open_tiff(path, name)


def _check_blocks(path: str, name: str) -> None:
    """Refuse what would end the whole process: OpenSlide makes room for a block before it asks whether the file has it."""
    try:
        directories = read_directories(path)
    except SourceError:
        raise
    except READ_ERRORS as error:
        raise damaged_slide(name, error) from error
    check_complete(path, directories)
    for one in directories:
        side = max(one.block_height, one.block_width)
        if one.block_height != one.height and side > _LARGEST_SIDE:  # an NDPI is one strip, decoded bit by bit
            raise SourceError(
                what=f"{name} has blocks of {one.block_height} x {one.block_width} px",
                why=f"each must be decoded whole, and the limit is {_LARGEST_SIDE} px a side",
                mend="copy or download the file again",
            )


def _is_by_openslide(path: str) -> bool:
    return path.lower().endswith(_OPENSLIDE_ENDINGS)


def _needs_openslide(path: str) -> bool:
    return bool(_of_tiff(path, lambda tif: any(getattr(tif, f"is_{kind}") for kind in _OPENSLIDE_TIFFS)))


def _is_slide_tiff(path: str) -> bool:
    return bool(_of_tiff(path, lambda tif: _is_microscope(tif, path)))


def _is_microscope(tif: Any, path: str) -> bool:
    if any(getattr(tif, f"is_{kind}") for kind in _MICROSCOPES):
        return True
    page = tif.pages[0]
    gray_or_rgb = (page.photometric, page.samplesperpixel) in {(1, 1), (2, 3), (6, 3)}
    if has_place(page, path) or not gray_or_rgb:
        return False
    from seggeo.io.slide_tiff_layout import choose_pages
    from seggeo.io.slide_tiff_text import tag_claims

    others = tif.pages[1:]
    if any(int(p.subfiletype) & 4 or int(p.imagelength) == int(page.imagelength) for p in others):
        return False
    return bool(tag_claims(page)) or len(choose_pages(tif, "TIFF", path).images) > 1


def has_place(page: Any, path: str) -> bool:
    """True when the tags of a TIFF or a file beside it say where it lies on the ground."""
    return any(tag in page.tags for tag in _GEO_TAGS) or any(os.path.lexists(_beside(path, end)) for end in _SIDE_FILES)


def _of_tiff(path: str, question: Any) -> bool:
    """The answer about a TIFF; False where it cannot be read, so that the raster reader says why."""
    from seggeo.io.slide_tiff_layout import open_directories

    try:
        with open_directories(path) as tif:
            return bool(question(tif))
    except READ_ERRORS:
        return False


def _beside(path: str, ending: str) -> str:
    return path + ending if ending == ".aux.xml" else os.path.splitext(path)[0] + ending
