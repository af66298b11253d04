"""How bright each object of a volume is: one walk over the voxels that objects lie on, slice beside slice.

Cross-sections come slice by slice; the windows that hold them are read once. The columns are files, and what is read at
once is bounded, so that memory grows with neither the volume nor an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window
from seggeo.output.batches import bounded
from seggeo.protocols import Pixels, Result
from seggeo.rle import Spans
from seggeo.run.intensity import distinct

_HEIGHT, _WIDTH = 1024, 2048
"""Of a window."""
_KINDS = ("mean", "min", "max")

Columns = dict[str, NDArray[Any]]


def measure_volume(result: Result, source: Any, folder: Path) -> Columns:
    """Mean, least and greatest value of every object in every channel.

    Args:
        result: Objects of a volume or a series in time.
        source: The volume in its own channels and dtype, on the result's work grid: `frame`, `bands`, `read(window, z)`.
        folder: Where the columns' files are put.

    Returns:
        By name, `(count,)`, an object's value at `id - 1`, file-backed: `mean_intensity` (float32), `min_intensity` and
        `max_intensity` (float64) of a volume of one channel, else `mean_dapi` and so on. In the file's own values; NaN
        where an object lies on no valid voxel.

    Raises:
        SourceError: Voxels cannot be read.
    """
    bands = [f"_{name}" for name in distinct(source.bands)] if len(source.bands) > 1 else ["_intensity"]
    count = max(result.count, 1)
    sums = [_column(folder / f"sum{name}.npy", count, 0.0) for name in bands]
    means = [_column(folder / f"mean{name}.npy", count, 0.0, np.float32) for name in bands]
    least = [_column(folder / f"min{name}.npy", count, np.inf) for name in bands]
    most = [_column(folder / f"max{name}.npy", count, -np.inf) for name in bands]
    voxels = [_column(folder / f"voxels{name}.npy", count, 0.0) for name in bands]
    for objects in bounded(result.iter_objects()):
        place = objects.id.astype(np.int64) - 1
        for band, found in enumerate(_measured(objects.instances.spans(), objects.instances.z, source, len(place))):
            sums[band][place] += found.total
            voxels[band][place] += found.voxels
            least[band][place] = np.minimum(least[band][place], found.least)
            most[band][place] = np.maximum(most[band][place], found.most)
    columns = {"mean": means, "min": least, "max": most}
    for total, n, *own in zip(sums, voxels, *columns.values(), strict=True):
        own[0][:] = total / np.maximum(n, 1)
        for column in own:
            column[n == 0] = np.nan
    return {f"{kind}{name}": columns[kind][i][: result.count] for i, name in enumerate(bands) for kind in _KINDS}


@dataclass(slots=True, kw_only=True)
class _Found:
    """What one channel shows of some cross-sections; arrays `(n,)`."""

    total: NDArray[np.float64]
    voxels: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    @classmethod
    def nothing(cls, count: int) -> _Found:
        return cls(
            total=np.zeros(count), voxels=np.zeros(count), least=np.full(count, np.inf), most=np.full(count, -np.inf)
        )  # fmt: skip

    def add(self, values: NDArray[np.float64], spans: Spans, window: Window) -> None:
        """Add the spans of a window with its values `(h, w)`; NaN where they are not valid."""
        count, known = len(self.total), np.isfinite(values)
        self.voxels += _along(known.astype(np.float64), spans, window, count)
        self.total += _along(np.where(known, values, 0), spans, window, count)
        np.minimum.at(self.least, spans.owner, _reduced(np.minimum, np.where(known, values, np.inf), spans, window))
        np.maximum.at(self.most, spans.owner, _reduced(np.maximum, np.where(known, values, -np.inf), spans, window))


def _measured(spans: Spans, z: NDArray[np.int32], source: Any, count: int) -> list[_Found]:
    """What every channel shows of cross-sections of one slice."""
    found = [_Found.nothing(count) for _ in source.bands]
    order = np.lexsort((spans.start, spans.row))
    spans = spans.take(order)
    rows = range(int(spans.row[0]) // _HEIGHT * _HEIGHT, int(spans.row[-1]) + 1, _HEIGHT)
    cols = range(int(spans.start.min()) // _WIDTH * _WIDTH, int(spans.stop.max()), _WIDTH)
    for row, col in product(rows, cols):
        here = spans.clip(row, col, row + _HEIGHT, col + _WIDTH)
        if not len(here):
            continue
        window = Window.from_bounds(
            int(here.row[0]), int(here.start.min()), int(here.row[-1]) + 1, int(here.stop.max())
        )  # fmt: skip
        pixels = source.read(window, int(z[0]))
        for band, own in enumerate(found):
            own.add(_values(pixels, band), here, window)
    return found


def _values(pixels: Pixels, band: int) -> NDArray[np.float64]:
    values = pixels.data[..., band].astype(np.float64)
    values[~pixels.valid] = np.nan
    return values


def _along(values: NDArray[np.float64], spans: Spans, window: Window, count: int) -> NDArray[np.float64]:
    """Sum of a window's values over each owner's spans."""
    # Each span by itself: differences of running sums would lose the last digits of a faint object beside a bright one.
    each = _reduced(np.add, values, spans, window)
    return np.asarray(np.bincount(spans.owner, weights=each, minlength=count), np.float64)


def _reduced(rule: np.ufunc, values: NDArray[np.float64], spans: Spans, window: Window) -> NDArray[np.float64]:
    """Of each span of a window, in order of row and column, one value."""
    flat = np.append(values.ravel(), 0.0)  # a span may end where the window does
    line = (spans.row - window.row) * window.width - window.col
    ends = np.stack([line + spans.start, line + spans.stop], axis=1).ravel()
    return np.asarray(rule.reduceat(flat, ends)[::2], np.float64)


def _column(path: Path, count: int, value: float, dtype: type = np.float64) -> NDArray[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    column: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
    column[:] = value
    return column
