"""Label volumes that no format of volumes holds: arrays in memory, `.npy` files, and folders with a mask for each slice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.geometry import matrix_of
from seggeo.io.annotations_raster import read_label_raster
from seggeo.io.checks import fingerprint_of
from seggeo.io.volume_file import Box, VolumeFacts
from seggeo.rle import ragged_ranges

_MASKS = (".tif", ".tiff", ".png", ".bmp")
_PLAIN = matrix_of(np.eye(4))


class ArrayVolume:
    """An array `(z, row, col)`; satisfies `VolumeFile`."""

    def __init__(self, values: NDArray[Any], path: Path | None = None) -> None:
        shape = values.shape[0], values.shape[1], values.shape[2]
        self.facts = VolumeFacts(
            kind="array", family="array", shape=shape, dtype=values.dtype.newbyteorder("="), matrix=_PLAIN,
            chunk=(1, *shape[1:]),
        )  # fmt: skip
        self._values, self._path = values, path

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """Voxels of a box, in memory when this returns."""
        return np.ascontiguousarray(self._values[box], self.facts.dtype)

    def is_empty(self, box: Box) -> bool:
        """Never known without looking."""
        return False

    def fingerprint(self) -> dict[str, Any]:
        """Of the file; of an array in memory there is none."""
        return {} if self._path is None else fingerprint_of(str(self._path))

    def close(self) -> None:
        """Nothing to release: the mapping ends with the array."""


def open_npy(path: Path) -> ArrayVolume:
    """The array of a `.npy` file, mapped and not loaded.

    Raises:
        SourceError: No array of three axes, damaged, or one that would need unpickling.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(what=f"{path} cannot be read", why=str(error), mend="write it anew with numpy.save") from error
    if not isinstance(values, np.ndarray) or values.ndim != 3 or not values.size:
        shape = getattr(values, "shape", "none")
        raise SourceError(
            what=f"{path} is no label volume", why=f"its shape is {shape}, and a volume is (slices, rows, columns)",
            mend="save one volume: numpy.save('labels.npy', labels)",
        )  # fmt: skip
    return ArrayVolume(values, path)


class SliceFolder:
    """A folder with one label raster for each slice; satisfies `VolumeFile`."""

    def __init__(self, folder: Path) -> None:
        self._paths = slices_in(folder)
        if not self._paths:
            raise SourceError(
                what=f"{folder} holds no slices", why=f"no file in it ends in {', '.join(_MASKS)}",
                mend="give the folder that has one mask for each slice",
            )  # fmt: skip
        first = _painted(self._paths[0])
        self.facts = VolumeFacts(
            kind="folder of masks", family="masks", shape=(len(self._paths), *first.shape), dtype=np.dtype(np.int64),
            matrix=_PLAIN, chunk=(1, *first.shape),
        )  # fmt: skip

    def read(self, box: Box, channel: int, time: int) -> NDArray[np.int64]:
        """Ids of a box.

        Raises:
            SourceError: A slice is no label raster, or not of the size of the first.
        """
        planes = [self._plane(path) for path in self._paths[box[0]]]
        return np.stack(planes)[:, box[1], box[2]]

    def is_empty(self, box: Box) -> bool:
        """Never known without looking."""
        return False

    def fingerprint(self) -> dict[str, Any]:
        """Of every slice."""
        return {path.name: fingerprint_of(str(path)) for path in self._paths}

    def close(self) -> None:
        """Nothing is kept open."""

    def _plane(self, path: Path) -> NDArray[np.int64]:
        plane = _painted(path)
        if plane.shape != self.facts.shape[1:]:
            raise SourceError(
                what=f"{path} is not of the size of the other slices",
                why=f"it has {plane.shape[0]} x {plane.shape[1]} px and {self._paths[0].name} has "
                f"{self.facts.shape[1]} x {self.facts.shape[2]} (rows x columns)",
                mend="leave only the masks of one volume in the folder",
            )
        return plane


def slices_in(folder: Path) -> list[Path]:
    """The masks of a folder by name, numbers in it by their value: slice 2 comes before slice 10."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in _MASKS and p.is_file() and not p.name.endswith("_preview.png")]
    return sorted(found, key=lambda p: ([(text, int(n or 0)) for text, n in re.findall(r"(\D*)(\d*)", p.name)], p.name))


def _painted(path: Path) -> NDArray[np.int64]:
    """A label raster as ids `(h, w)`."""
    found = read_label_raster(path, None)
    labels = np.zeros(found.frame.height * found.frame.width, np.int64)
    spans = found.instances.spans()
    at, which = ragged_ranges(spans.row * found.frame.width + spans.start, spans.stop - spans.start)
    labels[at] = found.ids[spans.owner[which]]
    return labels.reshape(found.frame.height, found.frame.width)
