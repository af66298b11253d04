"""DICOM volumes: a folder of files of one series, or one file, through pydicom.

Headers are read when a volume is opened, pixels plane by plane when asked for. Where a plane lies is taken from its position
and orientation alone (`volume_dicom_order`), whether it is a file or a frame of an enhanced one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import matrix_of
from seggeo.io.volume_dicom_find import find_series
from seggeo.io.volume_dicom_headers import Series, is_slide, uid_name
from seggeo.io.volume_dicom_order import Stack, stacked
from seggeo.io.volume_dicom_pixels import PlaneReader, check_decoder, padding_value, value_type
from seggeo.io.volume_file import Box, VolumeFacts

_HEAD = 4096


def open_dicom(path: Path, name: str, reading: Reading) -> DicomVolume:
    """The volume of a DICOM series.

    Args:
        path: A folder, searched with those below it, or a file.
        name: What the user is shown.
        reading: `series` chooses one of several, `allow_gaps` lets slices be missing.

    Raises:
        SourceError: No images, not one volume, gaps, or a compression that no installed package reads.
        ConfigError: Several series, and none chosen.
    """
    try:
        import pydicom  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SourceError(what=f"{name} needs pydicom", why=str(error), mend='pip install "seggeo[volumes]"') from error
    series = find_series(path, name, reading.series)
    _check_kind(series, name)
    check_decoder(series.syntax, name)
    is_placed = all(plane.position is not None for plane in series.planes)
    stack = stacked(series.planes, name, allow_gaps=reading.allow_gaps) if is_placed else _placeless(series, name)
    facts = _facts(series, stack, path, time=(reading.time or 1) - 1)
    return DicomVolume(series, stack, facts)


class DicomVolume:
    """An open series; satisfies `VolumeFile`."""

    def __init__(self, series: Series, stack: Stack, facts: VolumeFacts) -> None:
        self.facts = facts
        self._paths = sorted({plane.path for plane in series.planes})
        self._planes = stack.planes
        self._reader = PlaneReader(facts.dtype, facts.nodata)

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """Voxels of a box, `(slices, rows, cols)`, of one colour and time; zeros where a slice is missing.

        Raises:
            SourceError: A file is damaged.
        """
        depth, rows, cols = box
        shape = tuple(part.stop - part.start for part in box)
        values = np.zeros(shape, self.facts.dtype)
        for i, plane in enumerate(self._planes[time][depth]):
            if plane is not None:
                values[i] = self._reader.read(plane)[rows, cols, channel]
        return values

    def is_empty(self, box: Box) -> bool:
        """True where all slices are missing."""
        return all(i in self.facts.missing for i in range(box[0].start, box[0].stop))

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and times of all files, and the first bytes of some."""
        digest = hashlib.sha256()
        size, newest = 0, 0
        for i, path in enumerate(self._paths):
            status = os.stat(path)
            size, newest = size + status.st_size, max(newest, status.st_mtime_ns)
            digest.update(f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
            if i % max(1, len(self._paths) // 16) == 0:
                with open(path, "rb") as stream:
                    digest.update(stream.read(_HEAD))
        return {"size": size, "mtime_ns": newest, "files": len(self._paths), "header_sha256": digest.hexdigest()}

    def close(self) -> None:
        """Forget what is kept; files are open only while they are read."""
        self._reader.forget()


def _check_kind(series: Series, name: str) -> None:
    photometric = series.planes[0].layout.photometric
    if is_slide(series):
        why, mend = "it is a whole slide image of pathology", "convert the slide to OME-TIFF or SVS and segment that"
    elif "MOSAIC" in series.image_type:
        why, mend = (
            "its slices are tiled in one image (Siemens mosaic)",
            "convert it: dcm2niix FOLDER, and segment the NIfTI file",
        )
    elif photometric == "PALETTE COLOR":
        why, mend = "its pixels are numbers of a palette, not brightness", "convert it to RGB or gray first"
    elif series.modality == "SEG":
        why, mend = "it holds segments, not an image", "give the series that was segmented"
    else:
        return
    raise SourceError(what=f"{name} is not read as a volume", why=why, mend=mend)


def _placeless(series: Series, name: str) -> Stack:
    """Frames of one file that do not say where they lie, in their order."""
    planes = series.planes
    if len({plane.path for plane in planes}) > 1:
        raise SourceError(
            what=f"nothing says in which order the {len(planes)} images of {name} lie",
            why="some have no ImagePositionPatient, as in screenshots, ultrasound and X-ray series",
            mend="give one of the files, or copy the images of a scan to a folder of their own",
        )
    row, col = planes[0].spacing or (1.0, 1.0)
    told = f"{name} has {len(planes)} frames without positions: taken as a series in time" if len(planes) > 1 else ""
    matrix = matrix_of([[0.0, 0.0, col, 0.0], [0.0, row, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    return Stack(planes=(tuple(planes),), matrix=matrix, missing=frozenset(), warnings=(told,) if told else ())


def _facts(series: Series, stack: Stack, path: Path, *, time: int) -> VolumeFacts:
    layout = series.planes[0].layout
    is_placed = all(plane.position is not None for plane in series.planes)
    depth = len(stack.planes[0])
    is_series = not is_placed and depth > 1
    files = len({plane.path for plane in series.planes})
    is_color = layout.samples == 3
    return VolumeFacts(
        kind="DICOM series" if files > 1 else "DICOM multi-frame" if len(series.planes) > 1 else "DICOM image",
        family="dicom", shape=(depth, *layout.shape), dtype=value_type(series.planes),
        axes=("t", "y", "x") if is_series else ("z", "y", "x"),
        channels=("red", "green", "blue") if is_color else ("gray",), is_rgb=is_color, times=len(stack.planes),
        matrix=stack.matrix, space="LPS" if is_placed else "", unit="mm" if series.planes[0].spacing else "px",
        chunk=(1, *layout.shape), missing=stack.missing, nodata=padding_value(series.planes),
        header=_header(stack, series, (path, time)) if is_placed else {}, notes=_notes(series),
        warnings=(*stack.warnings, *_dark(layout.photometric)),
    )  # fmt: skip


def _header(stack: Stack, series: Series, chosen: tuple[Path, int]) -> dict[str, Any]:
    """Which file and frame each slice of the volume read comes from, for a segmentation; null where one is missing."""
    path, time = chosen
    planes = stack.planes[min(time, len(stack.planes) - 1)]
    uids = {plane.path: plane.uid for plane in planes if plane is not None}
    files = sorted(uids)
    number = {file: i for i, file in enumerate(files)}
    root = path if path.is_dir() else path.parent
    return {
        "series": series.uid, "files": [os.path.relpath(file, root) for file in files], "uids": [uids[file] for file in files],
        "size": list(series.planes[0].layout.shape),
        "slices": [None if plane is None else [number[plane.path], plane.frame] for plane in planes],
    }  # fmt: skip


def _notes(series: Series) -> dict[str, Any]:
    """What may be shown: the kind of image, never the patient, the date or who made it."""
    return {
        "modality": series.modality, "series": series.description, "sop_class": uid_name(series.sop_class),
        "compression": uid_name(series.syntax), "photometric": series.planes[0].layout.photometric,
        "images": len(series.planes),
    }  # fmt: skip


def _dark(photometric: str) -> tuple[str, ...]:
    return ("MONOCHROME1: high values are meant to be shown dark; values are read as they are",) * (
        photometric == "MONOCHROME1"
    )
