"""What every reader of labels gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances


def check_no_negative_ids(values: NDArray[np.integer], name: str, nodata: float | None = None) -> None:
    """Refuse labels of which several are negative: one such value may be background, but these were objects.

    Args:
        values: Ids, of any shape.
        name: Of the file, for the message.
        nodata: A value that is background anyhow.

    Raises:
        SourceError: There are two or more negative values.
    """
    if values.dtype.kind != "i" or values.min(initial=0) >= 0:
        return
    negative = np.unique(values[values < 0])
    negative = negative[negative != nodata] if nodata is not None else negative
    if len(negative) > 1:
        raise SourceError(
            what=f"{name} has negative ids, {negative[0]} to {negative[-1]}",
            why="0 and below is background, so that these objects would be lost",
            mend="number the objects from 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The objects of one image as a file tells them: truth, or another tool's result."""

    instances: Instances
    """Masks in pixels of `frame`; label = index into `classes`; score 1 where the file has none."""
    ids: NDArray[np.int64]
    """`(n,)` id of each object in its file."""
    classes: tuple[str, ...]
    """Name of each label."""
    scored: bool
    """True when the file gives scores."""
    exclusive: bool
    """True when no two objects can share a pixel (label rasters)."""
    frame: Frame
    """The grid of the pixels."""
    crowd: NDArray[np.bool_]
    """`(n,)`, True for a region in which objects are not told apart (COCO's iscrowd)."""
    outside: int = 0
    """Objects that lie wholly outside the frame and are left out."""
    tiny: int = 0
    """Objects inside the frame that hold no pixel centre and are left out."""
    reprojected: str = ""
    """Name of the file's CRS when it is not the frame's."""

    def __len__(self) -> int:
        return len(self.instances)


def size_mismatch(name: str, own: tuple[int, int], frame: Frame) -> SourceError:
    """The refusal of labels that are not of the size of their image."""
    return SourceError(
        what=f"{name} does not fit its image",
        why=f"the labels have {own[0]} x {own[1]} pixels (rows x columns) and the image {frame.height} x {frame.width}",
        mend="give the labels of this very image, at its full resolution",
    )
