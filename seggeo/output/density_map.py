"""A picture of a slide's cell density: smoothed cells per mm2 in colour over the slide, a scale and the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.cells_shape import FloatArray
from seggeo.output.density import CellMap, density_of

Picture = NDArray[np.uint8]

_SIGMA = 1.0  # bins: a quarter of a block, so that the map shows what the interval is made of
_LEAST = 0.02  # of a bin full of tissue: less is not coloured


def smooth_density(cells: CellMap) -> FloatArray:
    """Cells per mm2 in every bin after Gaussian smoothing of counts and areas, `(rows, cols)`; 0 far from tissue.

    Where the resolution is unknown: cells per bin.
    """
    counts = gaussian_filter(cells.counts.sum(axis=0).astype(np.float64), _SIGMA, mode="constant")
    if not np.isfinite(cells.area_mm2).all():
        return np.asarray(counts, np.float64)
    area = gaussian_filter(cells.area_mm2, _SIGMA, mode="constant")
    return np.where(area > _LEAST * area.max(), counts / np.maximum(area, 1e-12), 0.0)


def render_density(
    cells: CellMap, thumbnail: Picture, frame: Frame, title: str | None = None, tissue: NDArray[np.bool_] | None = None,
    *, inches: float = 8.5,
) -> Picture:  # fmt: skip
    """The density over a thumbnail, uint8 RGB, 120 px an inch.

    Args:
        cells: From `map_cells`.
        thumbnail: The whole frame, uint8 RGB `(h, w, 3)`, any resolution.
        frame: The work grid.
        title: First line of a heading whose second gives count, density and area; None leaves the heading out.
        tissue: The mask that `cells` was counted with; the rest stays uncoloured.
        inches: Longer side of the map; smaller ones have larger letters, relatively.
    """
    values = _over(thumbnail.shape[:2], smooth_density(cells), (frame, cells.bin_px), tissue)
    height, width = frame.height / cells.bin_px, frame.width / cells.bin_px
    figure = Figure(figsize=_size(height, width, inches), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    grey = thumbnail.astype(np.float32).mean(axis=2)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="bilinear", resample=True)
    finite = values[np.isfinite(values)]
    top = float(np.quantile(finite, 0.995)) if finite.size else 1.0
    drawn = axes.imshow(
        np.ma.masked_invalid(values), cmap="inferno", alpha=0.7, vmin=0, vmax=top or 1.0,
        extent=(0, width, height, 0), interpolation="nearest",
    )  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    density = density_of(cells)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85)
    bar.set_label("cells per mm²" if density else "cells per bin")
    if title is not None:
        figures = f"{cells.count:,} cells in tissue" + (f", {str(density).replace('mm2', 'mm²')}" if density else "")
        axes.set_title("\n".join([title.replace("$", r"\$"), figures]), fontsize=9, loc="left")
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]


def draw_density(
    cells: CellMap, thumbnail: Picture, frame: Frame, path: Path, title: str | None = None,
    tissue: NDArray[np.bool_] | None = None,
) -> Path:  # fmt: skip
    """Write the picture of `render_density` as a PNG and return `path`.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    image = render_density(cells, thumbnail, frame, title, tissue)
    with publishing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return path


def _over(
    shape: tuple[int, ...], values: FloatArray, place: tuple[Frame, float], tissue: NDArray[np.bool_] | None
) -> FloatArray:
    """Bins drawn smoothly at a picture's resolution; NaN off tissue."""
    frame, bin_px = place
    rows = (np.arange(shape[0]) + 0.5) * (frame.height / shape[0] / bin_px) - 0.5
    cols = (np.arange(shape[1]) + 0.5) * (frame.width / shape[1] / bin_px) - 0.5
    fine = map_coordinates(values, np.meshgrid(rows, cols, indexing="ij"), order=1, mode="nearest")
    if tissue is not None:
        down, right = (np.arange(n) * size // n for n, size in zip(shape, tissue.shape, strict=False))
        fine[~tissue[np.ix_(down, right)]] = np.nan
    return np.asarray(fine, np.float64)


def _size(height: float, width: float, inches: float) -> tuple[float, float]:
    """Inches of the figure around a map of this shape."""
    longest = max(height, width)
    return max(inches * width / longest, 2.0) + 1.2, max(inches * height / longest, 2.0) + 0.7
