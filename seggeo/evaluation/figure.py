"""The picture of an evaluation: hits, misses and false alarms where they lie, and recall and precision by size.

1. `_view` picks the part of the image to show: all of it, or where the errors are densest.
2. `_ground` reads the picture there, `_paint` lays the objects over it.
3. `draw_figure` puts both panels on a sheet with matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError
from seggeo.evaluation.objects import ObjectSet
from seggeo.evaluation.report import Evaluation, Shown
from seggeo.evaluation.rows import FALSE_ALARM, HIT, MISS, Rows
from seggeo.evaluation.sizes import BySize, by_size
from seggeo.files import publishing
from seggeo.geometry import Window
from seggeo.instances import Instances

Picture = NDArray[np.float32]
_MOST = 1024
"""Longest side of the part that is shown, px: outlines are still to be seen."""
_GREEN, _BLUE, _RED = (0.20, 0.85, 0.30), (0.20, 0.50, 1.00), (1.00, 0.22, 0.20)
_BLANK = 0.12
_LONGEST_NAME = 40
_FILL = 0.25


def draw_figure(evaluation: Evaluation, path: Path, image: Path | None = None) -> Path:
    """Draw an evaluation as a PNG and return `path`.

    Args:
        evaluation: What to draw; of several images the one with the most errors is shown.
        path: The PNG, replaced if it exists.
        image: The picture of the image shown; without it objects lie on dark ground.

    Raises:
        OutputError: `path` cannot be written.
        SourceError: `image` cannot be read.
    """
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(15, 8.4), layout="constrained")
    axes = sheet.subplots(1, 2, width_ratios=(1.55, 1))
    if evaluation.shown is None:
        axes[0].set_axis_off()
    else:
        _draw_overlay(axes[0], evaluation.shown, image)
    _draw_sizes(axes[1], by_size(evaluation.rows.values()), "area, px" if evaluation.along_z is None else "volume, voxels")
    sheet.suptitle(_headline(evaluation))
    with publishing(path) as temporary:
        sheet.savefig(temporary, format="png", dpi=110, metadata={"Software": "seggeo"})
    return path


def _headline(evaluation: Evaluation) -> str:
    s = evaluation.pooled
    at = s.near(0.5)
    parts = [f"PQ {s.pq:.3f}", f"SQ {s.sq:.3f}", f"RQ {s.rq:.3f}", *([f"AP50 {at.ap:.3f}"] if at else [])]
    return f"{'   '.join(parts)}      {s.n_true} true, {s.n_pred} predicted: {s.tp} hits, {s.fn} misses, {s.fp} false alarms"


def _draw_overlay(axis: Any, shown: Shown, image: Path | None) -> None:
    from matplotlib.patches import Patch

    window = _view(shown)
    picture = _ground(image, window, shown)
    truth, pred = shown.rows
    # Misses last: a large false alarm around them would hide them.
    kinds = (
        (pred, shown.pred, HIT, _GREEN, "hits"), (pred, shown.pred, FALSE_ALARM, _RED, "false alarms"),
        (truth, shown.truth, MISS, _BLUE, "misses"),
    )  # fmt: skip
    legend = []
    for rows, objects, outcome, colour, name in kinds:
        inside = _inside(rows, window) & (rows.outcome == outcome)
        _paint(picture, objects.instances.take(inside), window, colour)
        legend.append(Patch(color=colour, label=f"{int(inside.sum())} {name}"))
    extent = (window.col, window.col_stop, window.row_stop, window.row)
    axis.imshow(picture, extent=extent, interpolation="nearest")
    axis.legend(handles=legend, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3, frameon=False)
    name = shown.name if len(shown.name) <= _LONGEST_NAME else f"{shown.name[:_LONGEST_NAME]}..."
    axis.set_title(f"{name}: rows {window.row} to {window.row_stop}, columns {window.col} to {window.col_stop}")


def _inside(rows: Rows, window: Window) -> NDArray[np.bool_]:
    box = rows.box
    meets = (box[:, 0] < window.row_stop) & (box[:, 2] > window.row)
    inside: NDArray[np.bool_] = meets & (box[:, 1] < window.col_stop) & (box[:, 3] > window.col)
    return inside


def _view(shown: Shown) -> Window:
    """The part of the image to show: all of it, or the window with the most misses and false alarms."""
    height, width = _size(shown)
    side_rows, side_cols = min(height, _MOST), min(width, _MOST)
    if (side_rows, side_cols) == (height, width):
        return Window(row=0, col=0, height=height, width=width)
    places = [(r.box[wrong, 0] + r.box[wrong, 2]) / 2 for r, wrong in _errors(shown)]
    across = [(r.box[wrong, 1] + r.box[wrong, 3]) / 2 for r, wrong in _errors(shown)]
    row, col = np.concatenate(places), np.concatenate(across)
    half = _MOST // 2
    # Windows start every half a window: count errors in squares of that side, then in two by two of them.
    shape = max(1, -(-height // half)), max(1, -(-width // half))
    cell = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    np.add.at(cell, ((row // half).astype(np.int64), (col // half).astype(np.int64)), 1)
    total = cell[:-1, :-1] + cell[1:, :-1] + cell[:-1, 1:] + cell[1:, 1:]
    best = np.unravel_index(int(total.argmax()), total.shape)
    top, left = min(int(best[0]) * half, height - side_rows), min(int(best[1]) * half, width - side_cols)
    return Window(row=top, col=left, height=side_rows, width=side_cols)


def _errors(shown: Shown) -> list[tuple[Rows, NDArray[np.bool_]]]:
    return [(rows, (rows.outcome == MISS) | (rows.outcome == FALSE_ALARM)) for rows in shown.rows]


def _size(shown: Shown) -> tuple[int, int]:
    frame = shown.truth.frame or shown.pred.frame
    if frame is not None:
        return frame.height, frame.width
    stops = [_stop(side) for side in (shown.truth, shown.pred)]
    return max(s[0] for s in stops), max(s[1] for s in stops)


def _stop(objects: ObjectSet) -> tuple[int, int]:
    """One past the last row and column of any object, at least 1."""
    box = objects.instances.box
    return (int(box[:, 2].max()), int(box[:, 3].max())) if len(box) else (1, 1)


def _ground(image: Path | None, window: Window, shown: Shown) -> Picture:
    """The picture in the window, RGB 0 to 1 `(h, w, 3)`, softened so that outlines stand out."""
    if image is None:
        return np.full((*window.shape, 3), _BLANK, np.float32)
    from seggeo.config import Reading
    from seggeo.io import apply_stretch, fit_stretch, open_raster

    with open_raster(str(image), Reading(), native=False) as source:
        own, wanted = (source.frame.height, source.frame.width), _size(shown)
        if own != wanted:
            raise ConfigError(
                what=f"{image} is not of the size compared",
                why=f"it has {own[0]} x {own[1]} px and the objects lie on {wanted[0]} x {wanted[1]} px",
                mend="give the picture of this very image, or leave --image out",
            )
        stretch = fit_stretch(source.overview(), "auto")
        rgb = apply_stretch(stretch, source.read(window))
    return np.asarray(rgb / np.float32(255), np.float32)


def _paint(picture: Picture, instances: Instances, window: Window, colour: tuple[float, float, float]) -> None:
    """Blend insides lightly and outlines fully into the picture, in place."""
    spans = instances.spans().clip(*window.bounds)
    ids = np.zeros(window.shape, np.int64)
    for owner, row, start, stop in zip(spans.owner, spans.row, spans.start, spans.stop, strict=True):
        ids[row - window.row, start - window.col : stop - window.col] = owner + 1
    edge = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        differs = np.diff(ids, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    weight = np.where(ids == 0, 0.0, np.where(edge, 1.0, _FILL)).astype(np.float32)[..., None]
    picture *= 1 - weight
    picture += weight * np.array(colour, np.float32)


def _draw_sizes(axis: Any, sizes: BySize, unit: str) -> None:
    place = np.arange(len(sizes.recall))
    axis.bar(place - 0.2, sizes.recall, 0.38, color=_BLUE, label="recall, by size of the true object")
    axis.bar(place + 0.2, sizes.precision, 0.38, color=_GREEN, label="precision, by size of the prediction")
    for at, (n_true, n_pred) in enumerate(zip(sizes.n_true, sizes.n_pred, strict=True)):
        axis.text(at - 0.2, 0.01, str(n_true), ha="center", va="bottom", fontsize=7, rotation=90)
        axis.text(at + 0.2, 0.01, str(n_pred), ha="center", va="bottom", fontsize=7, rotation=90)
    edges = sizes.edges
    axis.set_xticks(place, [f"{low:.0f}–\n{high - 1:.0f}" for low, high in zip(edges[:-1], edges[1:], strict=True)])
    axis.set(ylim=(0, 1), xlabel=unit, ylabel="share matched with IoU > 0.5")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2, frameon=False, fontsize=8)
