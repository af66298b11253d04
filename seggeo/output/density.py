"""Cells per square millimetre of tissue, and how sure that is.

1. `map_cells` walks a result once and counts centres on a grid, beside the tissue's area in every bin of it.
2. `density_of` sums bins to square blocks and takes the ratio estimator sum(counts) / sum(areas): W. G. Cochran, Sampling
   Techniques, 1977, 6.2 and 9A.1, with blocks as clusters.
3. `ratio_interval` gives its 95 % interval, linearised on the logarithm's scale. Tissue is patchy, so blocks that touch are
   not independent: the products of neighbours' residuals are added to the variance (T. G. Conley, J. Econometrics 92, 1999,
   with a uniform kernel over the eight neighbours), and it never falls below what independent blocks would give.

The interval speaks of the sample: what another piece of the same tissue would give. It knows nothing of cells that the model
missed. Coverage on simulated tissue, 300 to 1000 runs each: 95 to 97 % for cells spread at random; 93 to 95 % for clusters
of up to 2 mm across (four standard deviations) on 50 mm2 and more; less where a piece of tissue holds a few clusters only
(7 mm2: 93 % for clusters of 0.4 mm, 87 % for 1.2 mm, 70 % for 2 mm), since what is not in the piece cannot be seen from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from scipy.stats import t as student

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output.batches import bounded
from seggeo.output.cells_shape import FloatArray, centres_of
from seggeo.output.cells_table import Extras, Scale
from seggeo.protocols import Result

_TO_MM = {"um": 1e-3, "mm": 1.0, "m": 1e3}
_BLOCK_MM, _BLOCKS, _FINE = 1.0, 40, 4  # blocks of 1 mm, smaller where they would be fewer than 40; 4 x 4 bins in each
_MOST_BINS = 1000  # along the longer side: specks of tissue on a large slide do not make the map larger than a picture
SIZE_EDGES: FloatArray = np.logspace(-1, 7, 801)
"""Ends of the classes of area, a hundred for each power of ten, in the unit of the table's areas."""
_NONE = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class CellMap:
    """How many cells there are of what class and size, and where."""

    counts: NDArray[np.int64]
    """By class and bin, `(classes, rows, cols)`; cells whose centre lies in tissue."""
    positive: NDArray[np.int64] | None
    """The positive ones of all classes, `(rows, cols)`; None where positivity was not asked for."""
    area_mm2: FloatArray
    """Of tissue in each bin, `(rows, cols)`; NaN where the resolution is unknown."""
    bin_px: float
    """Side of a bin, work-grid pixels; the first begins at the frame's corner."""
    block_mm: float
    """Side of the blocks of `_FINE` x `_FINE` bins that intervals are made of; NaN where the resolution is unknown."""
    outside: int
    """Cells whose centre is not in tissue; they are in no count here but in `sizes`."""
    sizes: NDArray[np.int64]
    """Cells by class of area, between `SIZE_EDGES`."""
    unit: str
    """Of the areas: um2, or px where the resolution is unknown."""

    @property
    def count(self) -> int:
        """Cells in tissue."""
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio and its 95 % interval."""

    value: float
    low: float
    high: float
    blocks: int
    """That have a denominator; with fewer than two, or no event, the interval is that of a Poisson count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Cells per mm2 with the area that they were counted on."""

    count: int
    area_mm2: float
    per_mm2: Ratio
    block_mm: float
    """Side of the blocks."""

    def __str__(self) -> str:
        r = self.per_mm2
        return f"{r.value:,.0f} per mm2 (95 % interval {r.low:,.0f} to {r.high:,.0f}) on {self.area_mm2:,.2f} mm2"


def map_cells(result: Result, tissue: NDArray[np.bool_] | None = None, extras: Extras = _NONE) -> CellMap:
    """Count the cells of a result, in one pass.

    Args:
        result: What was merged; one slice.
        tissue: True where tissue is, `(h, w)`, the whole frame at any resolution; default: everywhere.
        extras: For positivity.
    """
    frame = result.frame
    mask = np.ones((1, 1), bool) if tissue is None else tissue
    if mask.ndim != 2 or not mask.size:
        raise OutputError(
            what=f"a tissue mask of shape {mask.shape}", why="it is a plane of pixels over the whole slide",
            mend="pass a boolean array (rows, columns)",
        )  # fmt: skip
    side_px, side_mm = _block(frame, float(mask.mean()))
    bin_px = side_px / _FINE
    shape = ceil(frame.height / bin_px), ceil(frame.width / bin_px)
    counts = np.zeros((len(result.classes), *shape), np.int64)
    positive = None if extras.positive is None else np.zeros(shape, np.int64)
    sizes, outside, scale = np.zeros(len(SIZE_EDGES) - 1, np.int64), 0, Scale.of(frame)
    for objects in bounded(result.iter_objects()):
        rows, cols = centres_of(objects.instances)
        down, right = ((v * n / size).astype(np.int64) for v, n, size in _axes(rows, cols, mask, frame))
        inside = mask[down, right]
        outside += int(np.count_nonzero(~inside))
        place = (rows[inside] / bin_px).astype(np.int64), (cols[inside] / bin_px).astype(np.int64)
        np.add.at(counts, (objects.instances.label[inside], *place), 1)
        if positive is not None and extras.positive is not None:
            np.add.at(positive, place, extras.at(objects.id)[extras.positive][inside] != 0)
        area = np.clip(objects.instances.area * (scale.row * scale.col), SIZE_EDGES[0], SIZE_EDGES[-1] * (1 - 1e-9))
        sizes += np.histogram(area, SIZE_EDGES)[0]
    return CellMap(
        counts=counts, positive=positive, area_mm2=_areas(mask, frame, bin_px, shape), bin_px=bin_px, block_mm=side_mm,
        outside=outside, sizes=sizes, unit=scale.area,
    )  # fmt: skip


def density_of(cells: CellMap, label: int | None = None) -> Density | None:
    """Cells per mm2 of tissue, of one class or of all; None where the resolution is unknown or there is no tissue."""
    counts = cells.counts.sum(axis=0) if label is None else cells.counts[label]
    area = float(cells.area_mm2.sum())
    if not isfinite(area) or area <= 0:
        return None
    ratio = ratio_interval(_blocks(counts), _blocks(cells.area_mm2))
    return Density(count=int(counts.sum()), area_mm2=area, per_mm2=ratio, block_mm=cells.block_mm)


def positivity_of(cells: CellMap) -> Ratio | None:
    """Share of cells that are positive, 0 to 1; None where it was not asked for or there are no cells."""
    if cells.positive is None or not cells.count:
        return None
    ratio = ratio_interval(_blocks(cells.positive), _blocks(cells.counts.sum(axis=0)))
    return Ratio(value=ratio.value, low=ratio.low, high=min(ratio.high, 1.0), blocks=ratio.blocks)


def ratio_interval(events: NDArray[np.generic], base: NDArray[np.generic]) -> Ratio:
    """`sum(events) / sum(base)` with its 95 % interval.

    Args:
        events: Counts on a grid of blocks, `(rows, cols)`.
        base: What they are counted on, same grid; blocks without any are left out.
    """
    y, x = np.asarray(events, np.float64), np.asarray(base, np.float64)
    total, size, blocks = float(y.sum()), float(x.sum()), int(np.count_nonzero(x))
    ratio = total / size
    if blocks < 2 or total == 0:
        low, high = float(chi2.ppf(0.025, 2 * total)) / 2 if total else 0.0, float(chi2.ppf(0.975, 2 * total + 2)) / 2
        return Ratio(value=ratio, low=low / size, high=high / size, blocks=blocks)
    residual = np.where(x > 0, y - ratio * x, 0.0)
    alone = float((residual**2).sum())
    variance = max(alone + 2 * _neighbours(residual), alone) * blocks / (blocks - 1)
    equal = size**2 / float((x**2).sum())  # as many blocks of equal size tell as much as these
    step = float(student.ppf(0.975, max(equal - 1, 1))) * sqrt(variance) / total
    return Ratio(value=ratio, low=ratio * exp(-step), high=ratio * exp(min(step, 700)), blocks=blocks)


def _neighbours(e: FloatArray) -> float:
    """Products of all pairs of blocks that touch by a side or a corner, each pair once."""
    pairs = (e[:, :-1], e[:, 1:]), (e[:-1], e[1:]), (e[:-1, :-1], e[1:, 1:]), (e[:-1, 1:], e[1:, :-1])
    return float(sum((a * b).sum() for a, b in pairs))


def _block(frame: Frame, share: float) -> tuple[float, float]:
    """Side of a block in work-grid pixels and in mm (NaN where the resolution is unknown)."""
    side = sqrt(frame.height * frame.width * share / _BLOCKS)
    pixel = sqrt(frame.spacing[1] * frame.spacing[2]) * _TO_MM.get(frame.unit, float("nan"))
    if isfinite(pixel):
        side = min(side, _BLOCK_MM / pixel)
    side = max(side, float(_FINE), max(frame.height, frame.width) * _FINE / _MOST_BINS)
    return side, side * pixel


def _axes(
    rows: FloatArray, cols: FloatArray, mask: NDArray[np.bool_], frame: Frame
) -> tuple[tuple[FloatArray, int, int], tuple[FloatArray, int, int]]:
    return (rows, mask.shape[0], frame.height), (cols, mask.shape[1], frame.width)


def _areas(mask: NDArray[np.bool_], frame: Frame, bin_px: float, shape: tuple[int, int]) -> FloatArray:
    """Tissue in each bin, mm2; mask pixels that lie in several bins are shared out."""
    if frame.unit not in _TO_MM:
        return np.full(shape, np.nan)
    to_mm = _TO_MM[frame.unit]
    down = _overlaps(mask.shape[0], frame.height, bin_px, shape[0]) * (frame.spacing[1] * to_mm)
    right = _overlaps(mask.shape[1], frame.width, bin_px, shape[1]) * (frame.spacing[2] * to_mm)
    return np.asarray(down @ mask.astype(np.float64) @ right.T, np.float64)


def _overlaps(pixels: int, length: int, bin_px: float, bins: int) -> FloatArray:
    """Length that each bin shares with each mask pixel, `(bins, pixels)`, work-grid pixels."""
    edges, ends = np.linspace(0, length, pixels + 1), np.arange(bins + 1) * bin_px
    shared = np.minimum(edges[1:], ends[1:, None]) - np.maximum(edges[:-1], ends[:-1, None])
    return np.asarray(np.maximum(shared, 0), np.float64)


def _blocks(bins: NDArray[np.generic]) -> FloatArray:
    """Sums over `_FINE` x `_FINE` bins."""
    values = np.asarray(bins, np.float64)
    rows, cols = (ceil(n / _FINE) for n in values.shape)
    padded = np.zeros((rows * _FINE, cols * _FINE))
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows, _FINE, cols, _FINE).sum(axis=(1, 3)), np.float64)
