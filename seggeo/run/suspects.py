"""Where a count is most likely wrong: windows of a slide that a person should look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.geometry import Frame, Window
from seggeo.output.report_html_pictures import outline_tile
from seggeo.output.report_html_records import Picture
from seggeo.protocols import Result

_SIDE = 256
"""Side of a window, px of the work grid."""
_FEW = 8
"""Windows with fewer cells say little by their mean score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed:
    """What one walk over the cells shows, by window of a lattice, `(rows, cols)`; and sums over all cells."""

    cells: NDArray[np.int64]
    score: NDArray[np.float64]
    """Sum of scores."""
    cut: NDArray[np.int64]
    """Cells that no tile saw whole."""
    at_seams: int
    """Cells that more than one tile reported."""
    areas: list[NDArray[np.int64]] = field(default_factory=list)
    """Areas of a bounded sample of cells, px."""

    @property
    def median_area(self) -> float:
        """Median area, px, of at most some hundred thousand cells; NaN without any."""
        return float(np.median(np.concatenate(self.areas))) if self.areas else float("nan")


def notice(result: Result) -> Noticed:
    """Walk over all cells once."""
    shape = ceil(result.frame.height / _SIDE), ceil(result.frame.width / _SIDE)
    cells, cut, score = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
    at_seams, areas = 0, []
    every = max(1, result.count // 250_000)
    for objects in result.iter_objects():
        box = objects.instances.box
        place = (box[:, 0] + box[:, 2]) // 2 // _SIDE, (box[:, 1] + box[:, 3]) // 2 // _SIDE
        np.add.at(cells, place, 1)
        np.add.at(score, place, objects.instances.score)
        np.add.at(cut, place, objects.cut)
        at_seams += int((objects.n_tiles > 1).sum())
        areas.append(objects.instances.area[::every])
    return Noticed(cells=cells, score=score, cut=cut, at_seams=at_seams, areas=areas)


def suspects(noticed: Noticed, frame: Frame, tissue: NDArray[np.bool_]) -> list[tuple[Window, str]]:
    """Up to four windows and what is odd about each: unsure cells, cut cells, tissue without cells.

    Args:
        noticed: Of `notice`.
        frame: The work grid.
        tissue: `(h, w)`, the whole slide at any resolution.
    """
    cells = noticed.cells
    mean = np.where(cells >= _FEW, noticed.score / np.maximum(cells, 1), np.inf)
    found: dict[int, str] = {}
    for place in np.argsort(mean, axis=None, kind="stable")[:2]:
        if np.isfinite(mean.flat[place]):
            found[int(place)] = f"the least sure cells: mean score {mean.flat[place]:.2f}"
    most_cut = int(np.argmax(noticed.cut))
    if noticed.cut.flat[most_cut]:
        found.setdefault(most_cut, f"{noticed.cut.flat[most_cut]} cells joined from pieces")
    bare = _bare(cells, frame, tissue)
    if bare is not None:
        found.setdefault(bare, "tissue without a cell")
    return [(_window(place, cells.shape, frame), why) for place, why in found.items()]


def pictures(places: list[tuple[Window, str]], source: Any, stretch: Any, result: Result) -> list[Picture]:
    """The windows as a model sees them, with outlines."""
    drawn = []
    for window, why in places:
        pixels = source.read(window)
        image = image_io.apply_stretch(stretch, pixels)
        row, col = window.row, window.col
        caption = f"{why} (row {row}, column {col} of the work grid)"
        drawn.append(Picture.of(outline_tile(np.ascontiguousarray(image), result.in_window(window), window), caption))
    return drawn


def _bare(cells: NDArray[np.int64], frame: Frame, tissue: NDArray[np.bool_]) -> int | None:
    """A window full of tissue, deep inside it, that holds no cell; None where there is none."""
    rows, cols = (((np.arange(n) + 0.5) * _SIDE) for n in cells.shape)
    down = np.minimum((rows * tissue.shape[0] / frame.height).astype(int), tissue.shape[0] - 1)
    right = np.minimum((cols * tissue.shape[1] / frame.width).astype(int), tissue.shape[1] - 1)
    inside = tissue[np.ix_(down, right)] & (cells == 0)
    crowd = np.zeros(cells.shape)
    padded = np.pad(cells, 1)
    for row in range(3):
        for col in range(3):
            crowd += padded[row : row + cells.shape[0], col : col + cells.shape[1]]
    crowd[~inside] = -1
    best = int(np.argmax(crowd))  # cells all around and none in it
    return best if crowd.flat[best] > 0 else None


def _window(place: int, shape: tuple[int, ...], frame: Frame) -> Window:
    row, col = (int(v) * _SIDE for v in np.unravel_index(place, shape))
    return Window.from_bounds(row, col, min(row + _SIDE, frame.height), min(col + _SIDE, frame.width))
