"""What a volume must offer, whatever library reads it: boxes of voxels, and what the file says of itself.

A backend gives plain arrays in an order of axes of its own choice, slowest first, and keeps nothing between reads that grows
with the volume. Slicing, channels shown, neighbours, work grids and validity are the same for all: `io/volume.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Row

Box = tuple[slice, slice, slice]
"""Half-open stretches along the three axes of a volume, with whole bounds and a step of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """What a file, folder or address says about itself."""

    kind: str
    """Format, as users call it: NIfTI-1, OME-Zarr 0.4, DICOM series, ImageJ TIFF."""
    family: str
    """Who writes labels in the same format: nifti, dicom, itk, ome-zarr or tiff."""
    shape: tuple[int, int, int]
    """Voxels along `axes`."""
    dtype: np.dtype[Any]
    """Of what `read` gives, native byte order: whole or real numbers, rescaled as the file says (HU of a CT)."""
    axes: tuple[str, str, str] = ("z", "y", "x")
    """Names of the axes, slowest first; the first is sliced along unless told otherwise. `t` first for a series in time."""
    channels: tuple[str, ...] = ("gray",)
    is_rgb: bool = False
    """True for the three colours of a camera."""
    times: int = 1
    """Volumes in time, of which one is read; 1 where there is one, or where time is itself the first axis."""
    matrix: tuple[Row, Row, Row]
    """World x, y, z from `(axis 0, axis 1, axis 2, 1)`, whole numbers are voxel centres; steps of 1 where nothing is known."""
    space: str = ""
    """RAS, LPS, or nothing for a microscope's own axes."""
    unit: str = "px"
    """mm, um or px: of the world."""
    chunk: tuple[int, int, int] = (1, 512, 512)
    """Voxels along `axes` that are decoded together; reads that follow it are cheap."""
    missing: frozenset[int] = frozenset()
    """Positions along axis 0 without pixels (lost slices that the user allowed); `read` gives zeros there."""
    nodata: float | None = None
    """Value that means no data, where the file says so."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """What the writer of the same format needs for labels of the same geometry, JSON values."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """More for `seggeo info`, JSON values."""
    warnings: tuple[str, ...] = ()
    """What the user should hear of once: disagreeing forms, gantry tilt, an axis that is not named."""


class VolumeFile(Protocol):
    """An open volume; `read` may be called from several threads."""

    facts: VolumeFacts

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """Voxels of a box, `(n0, n1, n2)` along `facts.axes`, of one 0-based channel and time.

        Raises:
            SourceError: The file is damaged there.
        """
        ...

    def is_empty(self, box: Box) -> bool:
        """True when it is known without decoding that nothing was ever written in a box."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What notices that the input was replaced during a run: sizes, digests of heads, `mtime_ns`; see `fingerprint_of`."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...
