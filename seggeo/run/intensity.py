"""How bright and how stained each cell is: one walk over the pixels that cells lie on, after the merge.

Objects come band by band; the windows that hold them are read once and summed along rows, so that memory grows neither
with the slide nor with the number of cells: the columns are files. Windows without cells are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError
from seggeo.geometry import Window
from seggeo.instances import Objects
from seggeo.protocols import Pixels, Result
from seggeo.rle import Spans

STAINS = ("hematoxylin", "eosin", "dab")
_OPTICAL_DENSITY = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Of each stain in red, green and blue (Ruifrok and Johnston 2001)."""
_WIDTH = 2048
"""Columns of a window."""

Columns = dict[str, NDArray[Any]]


def measure(result: Result, source: Any, folder: Path, *, white: Sequence[float] | None = None) -> Columns:
    """Mean intensity of every cell in every band, and its stains' optical densities in brightfield.

    Args:
        result: Merged cells.
        source: The image in its own bands and dtype, on the result's work grid.
        folder: Where the columns' files are put.
        white: Brightfield: what glass shows in red, green and blue; None for fluorescence, which has no stains.

    Returns:
        By name (`mean_red`, `od_dab`), `(count,)` float32, a cell's value at `id - 1`; file-backed. Intensities are in
        the file's own values; optical densities are decimal, of each stain alone.
    """
    names = [f"mean_{name}" for name in distinct(source.bands)]
    stained = [f"od_{stain}" for stain in STAINS] if white is not None else []
    columns = {name: _column(folder / f"{name}.npy", result.count) for name in (*names, *stained)}
    for objects in result.iter_objects():
        sums, area = _sums(objects, source, white)
        place = objects.id.astype(np.int64) - 1
        means = sums / np.maximum(area, 1)[:, None]
        if white is not None:
            means[:, len(names) :] = means[:, len(names) :] @ unmixing()
        for name, values in zip(columns, means.T, strict=True):
            columns[name][place] = values
    return columns


def unmixing() -> NDArray[np.float64]:
    """`(3, 3)`: optical densities of red, green and blue times this are amounts of `STAINS`, each of unit length."""
    unit = _OPTICAL_DENSITY / np.linalg.norm(_OPTICAL_DENSITY, axis=1, keepdims=True)
    return np.asarray(np.linalg.inv(unit))


def white_of(overview: Pixels) -> tuple[float, ...]:
    """What glass shows in each band of a brightfield slide: the 98th percentile of its overview."""
    return tuple(float(v) for v in np.percentile(overview.data[overview.valid], 98, axis=0))


def plain(name: str) -> str:
    """A band's name as part of a column's name."""
    return "".join(c if c.isalnum() else "_" for c in name.strip().lower()).strip("_") or "band"


def distinct(bands: Sequence[str]) -> list[str]:
    """Plain names; bands that share one are told apart by their numbers, counted from 1."""
    names = [plain(band) for band in bands]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names, 1)]


class Rule:
    """`dab>0.25`: which cells count as positive."""

    def __init__(self, text: str) -> None:
        name, sign, limit = text.partition(">")
        self.text, self.name = text.replace(" ", ""), plain(name)
        try:
            self.limit = float(limit)
        except ValueError:
            self.limit = math.nan
        if not sign or not name.strip() or not math.isfinite(self.limit):
            raise ConfigError(
                what=f"--positive {text}", why="a rule is the name of a stain or channel, > and a number",
                mend="use --positive 'dab>0.25'",
            )  # fmt: skip

    def apply(self, columns: Mapping[str, NDArray[Any]], folder: Path) -> NDArray[Any]:
        """One boolean for each cell, file-backed.

        Raises:
            ConfigError: No stain or channel of that name.
        """
        values = columns.get(f"od_{self.name}", columns.get(f"mean_{self.name}"))
        if values is None:
            known = sorted({name.split("_", 1)[1] for name in columns})
            raise ConfigError(
                what=f"--positive {self.text}: the slide has no {self.name}", why=f"it has {', '.join(known)}",
                mend="name one of them",
            )  # fmt: skip
        positive = _column(folder / "positive.npy", len(values), np.bool_)
        positive[:] = values > self.limit
        return positive


def _column(path: Path, count: int, dtype: type = np.float32) -> NDArray[Any]:
    if not count:
        return np.zeros(0, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    column: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
    return column


def _sums(objects: Objects, source: Any, white: Sequence[float] | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum over each cell's pixels of every band, then of every band's optical density; and the cells' areas."""
    spans, count, bands = objects.instances.spans(), len(objects), len(source.bands)
    sums = np.zeros((count, bands + (bands if white is not None else 0)))
    area = np.bincount(spans.owner, weights=spans.stop - spans.start, minlength=count).astype(np.int64)
    box = objects.instances.box
    rows = int(box[:, 0].min()), int(box[:, 2].max())
    for col in range(int(box[:, 1].min()) // _WIDTH * _WIDTH, int(box[:, 3].max()), _WIDTH):
        here = spans.clip(rows[0], col, rows[1], min(col + _WIDTH, source.frame.width))
        if not len(here.owner):
            continue
        window = Window.from_bounds(
            int(here.row.min()), int(here.start.min()), int(here.row.max()) + 1, int(here.stop.max())
        )  # fmt: skip
        pixels = source.read(window, int(objects.instances.z[0]))
        for band in range(bands):
            values = pixels.data[..., band].astype(np.float64)
            sums[:, band] += _along(values, here, window, count)
            if white is not None:
                density = np.log10((white[band] + 1) / (np.minimum(values, white[band]) + 1))
                sums[:, bands + band] += _along(density, here, window, count)
    return sums, area


def _along(values: NDArray[np.float64], spans: Spans, window: Window, count: int) -> NDArray[np.float64]:
    """Sum of a window's values over each owner's spans."""
    ends = np.zeros((window.height, window.width + 1))
    np.cumsum(values, axis=1, out=ends[:, 1:])
    row = spans.row - window.row
    each = ends[row, spans.stop - window.col] - ends[row, spans.start - window.col]
    return np.asarray(np.bincount(spans.owner, weights=each, minlength=count), np.float64)
