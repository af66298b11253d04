"""What is a volume and which backend opens it: by content first, without reading a voxel."""

from __future__ import annotations

import os
import re
from math import prod
from pathlib import Path
from urllib.parse import urlsplit

from seggeo.config import Reading
from seggeo.errors import SeggeoError, SourceError
from seggeo.io.checks import read_header, sniff
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.volume_file import VolumeFile

_DICOM = slice(128, 132)
_CLASS_OF_DICOM = re.compile(rb"\x02\x00\x02\x00UI(..)([0-9.]{1,64})", re.DOTALL)
_WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
_META_KEYS = (b"ObjectType", b"NDims", b"Comment", b"TransformType", b"BinaryData", b"DimSize", b"ID ")
_IMAGES = (".tif", ".tiff", ".jp2", ".j2k", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".vrt", ".svs", ".ndpi")
"""Endings of addresses that the readers of images fetch themselves."""
_FILES_LOOKED_AT = 256


def volume_kind(path: str) -> str | None:
    """`nifti`, `dicom`, `itk`, `ome-zarr` or `tiff` for what is read as a volume; None for images, slides and anything odd.

    Nothing is raised for files that are missing or damaged: the reader that comes next says why.
    """
    try:
        return _remote_kind(path) if "://" in path else _local_kind(os.path.abspath(path))
    except (SeggeoError, *READ_ERRORS):
        return None


def open_volume_file(path: str, reading: Reading) -> VolumeFile:
    """The volume at a path or address, through the backend of its format.

    Raises:
        SourceError: No volume, damaged, of a kind that is not read, or refused by a safety limit.
        ConfigError: The settings do not fit it.
    """
    name = _shown(path)
    kind = volume_kind(path)
    if kind is None:
        raise SourceError(
            what=f"{name} is no volume",
            why="it is missing, one plane, or of no format of volumes (TIFF, NIfTI, DICOM, OME-Zarr, NRRD, MHA)",
            mend="check it with: seggeo info FILE",
        )
    volume = _open(kind, path if "://" in path else os.path.abspath(path), name, reading)
    count = prod(volume.facts.shape)
    if count > reading.max_pixels:
        volume.close()
        raise SourceError(
            what=f"{name} claims {count} voxels",
            why=f"the limit is {reading.max_pixels}",
            mend="add --max-pixels if you trust the file",
        )
    return volume


def _open(kind: str, path: str, name: str, reading: Reading) -> VolumeFile:
    if kind == "nifti":
        from seggeo.io.volume_nifti import open_nifti

        return open_nifti(path, name, reading)
    if kind == "ome-zarr":
        from seggeo.io.volume_zarr import open_zarr_volume

        return open_zarr_volume(path, name, reading)
    if kind == "tiff":
        from seggeo.io.volume_tiff import open_tiff_volume

        return open_tiff_volume(path, name, reading)
    if kind == "dicom":
        from seggeo.io.volume_dicom import open_dicom

        return open_dicom(Path(path), name, reading)
    from seggeo.io.volume_itk import open_itk

    return open_itk(Path(path), name, reading)


def _local_kind(path: str) -> str | None:
    if os.path.isdir(path):
        return _folder_kind(path)
    header = read_header(path)
    if header[_DICOM] == b"DICM":  # before TIFF: the 128 bytes before it are free, and may be a TIFF's
        return None if _is_whole_slide(header) else "dicom"
    if sniff(header) == "GTiff":
        from seggeo.io.volume_tiff_layout import is_tiff_volume

        return "tiff" if is_tiff_volume(path) else None
    if header.startswith(b"NRRD000") or _is_meta_image(header):
        return "itk"
    from seggeo.io.volume_nifti import is_nifti

    return "nifti" if is_nifti(path) else None


def _folder_kind(path: str) -> str | None:
    from seggeo.io.slide_zarr import is_zarr

    if is_zarr(path):
        from seggeo.io.volume_zarr import is_zarr_volume

        return "ome-zarr" if is_zarr_volume(path) else None
    for file in _first_files(path):
        with open(file, "rb") as opened:
            header = opened.read(4096)
        if header[_DICOM] == b"DICM":
            return None if _is_whole_slide(header) else "dicom"
    return None


def _first_files(path: str) -> list[str]:
    """Regular files of a folder and the folders in it, in order, so many that one of a series is among them."""
    found: list[str] = []
    for folder, inner, names in os.walk(path):
        inner.sort()
        found += [full for name in sorted(names) if os.path.isfile(full := os.path.join(folder, name))]
        if len(found) >= _FILES_LOOKED_AT:
            break
    return found[:_FILES_LOOKED_AT]


def _remote_kind(path: str) -> str | None:
    from seggeo.io.volume_zarr_store import is_address

    ending = os.path.splitext(urlsplit(path).path.rstrip("/"))[1].lower()
    if not is_address(path) or ending in _IMAGES:
        return None
    from seggeo.io.volume_zarr import is_zarr_volume

    try:
        return "ome-zarr" if is_zarr_volume(path) else None
    except (SeggeoError, *READ_ERRORS):
        if ending == ".zarr":  # nothing else reads it, so that its backend shall say what is wrong
            return "ome-zarr"
        raise


def _is_whole_slide(header: bytes) -> bool:
    found = _CLASS_OF_DICOM.search(header)
    return found is not None and found[2][: int.from_bytes(found[1], "little")].rstrip(b"\0") == _WHOLE_SLIDE


def _is_meta_image(header: bytes) -> bool:
    return header.lstrip().startswith(_META_KEYS) and b"NDims" in header and b"ElementType" in header


def _shown(path: str) -> str:
    """A path on one line; an address without credentials and query."""
    if "://" in path:
        parts = urlsplit(path)
        path = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return path if path.isprintable() else repr(path)
