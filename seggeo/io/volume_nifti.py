"""NIfTI volumes (1 and 2; .nii, .nii.gz, pairs of .hdr and .img), read box by box.

The values lie in the file one after the other, the first axis fastest, so a box is a few stretches of bytes: taken from their
place, or out of the gzip stream by way of an index of entry points. nibabel reads the header and decides between the forms.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.checks import fingerprint_of
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_pyramid import damaged_slide
from seggeo.io.volume_bytes import Bytes, open_bytes
from seggeo.io.volume_file import Box, VolumeFacts
from seggeo.io.volume_nifti_header import NiftiFacts, find_nifti, nifti_facts, read_nifti_header

_RUN_BYTES = 16 * 2**20
"""Bytes read at a time where whole rows or planes are taken for a part of them."""


def open_nifti(path: str, name: str, reading: Reading) -> NiftiFile:
    """The volume in a NIfTI file, or in a pair of which either file is named.

    Raises:
        SourceError: Damaged, cut off, of a type without one real value for each voxel, or without a usable position.
    """
    opened: Bytes | None = None
    try:
        head = read_nifti_header(path, name)
        described = nifti_facts(head, name, reading)
        opened = open_bytes(head.data_path, head.offset + described.stored_bytes, name)
        return NiftiFile(opened, described, paths=(head.path, head.data_path), offset=head.offset, name=name)
    except BaseException as error:
        if opened is not None:
            opened.close()
        if isinstance(error, READ_ERRORS) and not isinstance(error, SourceError):
            raise damaged_slide(name, error) from error
        raise


class NiftiFile:
    """A `VolumeFile` over a NIfTI file; reads from several threads are safe, those of a gzip stream wait for each other."""

    def __init__(self, opened: Bytes, described: NiftiFacts, *, paths: tuple[str, str], offset: int, name: str) -> None:
        self.facts: VolumeFacts = described.facts
        self._described, self._bytes = described, opened
        self._paths, self._offset, self._name = paths, offset, name

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """See `VolumeFile`."""
        slices, rows, cols = box
        out = np.empty(tuple(s.stop - s.start for s in box), self.facts.dtype)
        if out.size == 0:
            return out
        try:
            for z in range(slices.start, slices.stop):
                for first, values in self._rows(z, rows, channel=channel, time=time):
                    place = first - rows.start
                    out[z - slices.start, place : place + len(values)] = self._described.rescaled(values[:, cols])
        except READ_ERRORS as error:
            raise damaged_slide(self._name, error, f" in slices {slices.start}-{slices.stop - 1}") from error
        return out

    def is_empty(self, box: Box) -> bool:
        """See `VolumeFile`; every voxel is written."""
        return False

    def fingerprint(self) -> dict[str, Any]:
        """See `VolumeFile`."""
        header, voxels = self._paths
        marks = fingerprint_of(header)
        return marks if header == voxels else {**marks, "voxels": fingerprint_of(voxels)}

    def close(self) -> None:
        """Release the file."""
        self._bytes.close()

    def _rows(self, z: int, rows: slice, *, channel: int, time: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Whole rows of one slice as they are stored, `(n, width)`, and the number of the first, a few MiB at a time."""
        depth, height, width = self.facts.shape
        stored, outer, samples = self._described.stored, self._described.outer(channel, time), self._described.samples
        row_bytes = width * samples * stored.itemsize
        many = max(1, _RUN_BYTES // row_bytes)
        for first in range(rows.start, rows.stop, many):
            count = min(many, rows.stop - first)
            place = self._offset + ((outer * depth + z) * height + first) * row_bytes
            values = np.frombuffer(self._bytes.read(count * row_bytes, place), stored).reshape(count, width, samples)
            yield first, values[..., channel if samples > 1 else 0]


def is_nifti(path: str) -> bool:
    """True for a file with the mark of NIfTI, packed or not, or for the .img of a pair whose header has it."""
    with suppress(*READ_ERRORS):
        return os.path.isfile(path) and find_nifti(path) is not None
    return False
