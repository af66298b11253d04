"""Label volumes of any format as slices of ids, one slab of the file's own chunks in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.annotations_record import check_no_negative_ids
from seggeo.io.volume_file import VolumeFile

_SLAB_BYTES = 2**28
"""Most that is decoded at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVolume:
    """One side of a comparison: a volume whose values are ids."""

    name: str
    """What the user calls it."""
    file: VolumeFile

    def __post_init__(self) -> None:
        facts = self.file.facts
        if len(facts.channels) != 1 or facts.times != 1:
            raise SourceError(
                what=f"{self.name} is no label volume",
                why=f"it has {len(facts.channels)} channels and {facts.times} times; labels have one number for each voxel",
                mend="write the ids as one volume, or give the labels instead of the picture",
            )
        if facts.dtype.kind not in "biuf":
            raise SourceError(
                what=f"{self.name} is no label volume", why=f"its values are {facts.dtype.name}, and ids are whole numbers",
                mend="write the ids as 32-bit unsigned integers",
            )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return self.file.facts.shape

    def slices(self) -> Iterator[NDArray[np.integer]]:
        """Ids `(h, w)` of each slice in order; 0 is background, none is negative.

        Raises:
            SourceError: Damaged, values that are not whole, or ids beyond 63 bits.
        """
        facts = self.file.facts
        depth, height, width = facts.shape
        fits = _SLAB_BYTES // max(height * width * facts.dtype.itemsize, 1)
        step = max(1, min(facts.chunk[0], fits, depth))
        for first in range(0, depth, step):
            box = slice(first, min(first + step, depth)), slice(0, height), slice(0, width)
            if self.file.is_empty(box):
                empty = np.zeros((height, width), np.uint8)
                yield from (empty for _ in range(first, box[0].stop))
                continue
            for plane in self.file.read(box, 0, 0):
                yield as_ids(plane, facts.nodata, self.name)


def as_ids(values: NDArray[Any], nodata: float | None, name: str) -> NDArray[np.integer]:
    """Values `(h, w)` as ids: whole numbers, `nodata`, NaN and a negative value becoming background.

    Raises:
        SourceError: Values are not whole, or beyond 63 bits, or several are negative.
    """
    if nodata is not None and nodata > 0:
        values = np.where(values == nodata, values.dtype.type(0), values)
    if values.dtype.kind == "f":
        values = _whole(values, name)
    elif values.dtype == bool:
        values = values.astype(np.uint8)
    elif values.dtype == np.uint64:
        if values.size and values.max() > np.iinfo(np.int64).max:
            raise SourceError(
                what=f"{name} holds ids above 9 223 372 036 854 775 807", why="ids are kept in 63 bits",
                mend="number the objects anew from 1",
            )  # fmt: skip
        values = values.astype(np.int64)
    check_no_negative_ids(values, name, nodata)
    return np.maximum(values, 0) if values.dtype.kind == "i" else values


def _whole(values: NDArray[np.floating], name: str) -> NDArray[np.int64]:
    values = np.nan_to_num(values, nan=0.0)
    if not (np.isfinite(values).all() and np.array_equal(values, np.rint(values)) and np.abs(values).max(initial=0) < 2**53):
        raise SourceError(
            what=f"{name} is no label volume",
            why="its values are not whole numbers: it may be the picture, or a map of probabilities",
            mend="give the labels, one whole number for each object",
        )
    return values.astype(np.int64)
