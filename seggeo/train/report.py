"""Pictures of a training: curves of every epoch, and judged images with what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seggeo.files import publishing
from seggeo.instances import Instances
from seggeo.train.best import latest_best
from seggeo.train.crops import paint
from seggeo.train.validate import Judgement, Shown

Labels = NDArray[np.int32]
TRUE, RIGHT, WRONG = (70, 170, 255), (255, 220, 0), (255, 50, 200)
"""Outlines: the truth, found objects that agree with it, and found ones that do not."""
_LEGEND = (
    (TRUE, "true outline; tinted: missed"), (RIGHT, "found, and right (IoU above 0.5)"), (WRONG, "found, and wrong"),
)  # fmt: skip
_SCORES = {
    "pq": "PQ", "pq_classes": "PQ within classes, their mean", "ap50": "AP at 0.5", "f1": "F1 at 0.5",
    "ap": "AP, mean of 0.5 to 0.95",
}  # fmt: skip
_SIDE, _COLUMNS, _STRIP, _GAP = 400, 3, 26, 6
"""Panel, px; panels in a row; height of a line of text; between panels."""
_GROUND = (24, 26, 30)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """PNG of losses, scores, scores by kind of image and learning rate over the batches.

    Args:
        rows: Of the history, one for each validation.
        path: Where it goes.
    """
    figure = Figure(figsize=(11, 7))
    FigureCanvasAgg(figure)
    (losses, scores), (kinds, rate) = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.07, top=0.95, hspace=0.18, wspace=0.16)
    step = [row["step"] for row in rows]
    _draw_losses(losses, rows, step)
    _draw_scores(scores, rows, step)
    _draw_kinds(kinds, rows, step)
    rate.plot(step, [row["rate"] for row in rows], color="0.4", marker="o", markersize=3)
    judged = sum(row["judged_in_s"] for row in rows)
    minutes = f"{(rows[-1]['seconds'] + rows[-1]['judged_in_s']) / 60:.1f} min, {judged / 60:.1f} of them for validation"
    rate.set(title=f"learning rate; {minutes}", ylim=(0, None))
    for axes in (losses, scores, kinds, rate):
        axes.grid(alpha=0.25)
        if len(axes.get_lines()) > 1 or axes is kinds:
            axes.legend(fontsize=8, loc="best", framealpha=0.7)
    for axes in (kinds, rate):
        axes.set_xlabel("batches")
    with publishing(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})


def draw_examples(judgement: Judgement, path: Path) -> None:
    """PNG of judged windows with true and found outlines; a legend says which is which."""
    panels = [_panel(shown) for shown in judgement.shown]
    if not panels:
        return
    columns = min(_COLUMNS, len(panels))
    heights = [max(p.shape[0] for p in panels[i : i + columns]) + _STRIP + _GAP for i in range(0, len(panels), columns)]
    width = max(columns * (_SIDE + _GAP) + _GAP, 2 * _SIDE)
    sheet = Image.new("RGB", (width, sum(heights) + _STRIP + _GAP), _GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    at = _GAP
    for colour, text in _LEGEND:
        pen.rectangle((at, 7, at + 13, 20), outline=colour, width=2)
        pen.text((at + 20, 5), text, fill=(235, 235, 235), font=font)
        at += 44 + int(pen.textlength(text, font=font))
    for i, (shown, panel) in enumerate(zip(judgement.shown, panels, strict=True)):
        row, col = divmod(i, columns)
        left, top = _GAP + col * (_SIDE + _GAP), _STRIP + _GAP + sum(heights[:row])
        said = f"{shown.name}: {len(shown.truth)} true, {len(shown.found)} found"
        pen.text((left, top + 4), said[-56:], fill=(200, 200, 200), font=font)
        sheet.paste(Image.fromarray(panel), (left, top + _STRIP))
    with publishing(path) as partial:
        sheet.save(partial)


def _draw_losses(axes: Axes, rows: Sequence[Mapping[str, Any]], step: list[int]) -> None:
    total = [sum(row["losses"].values()) for row in rows]
    axes.plot(step, total, color="k", linewidth=2, marker="o", markersize=3, label="all")
    for name in rows[-1]["losses"]:
        axes.plot(step, [row["losses"].get(name, np.nan) for row in rows], label=name, linewidth=1)
    axes.set(title=f"training loss, now {total[-1]:.3g}", yscale="log")


def _draw_scores(axes: Axes, rows: Sequence[Mapping[str, Any]], step: list[int]) -> None:
    """Every score, and a line where the weights are from."""
    for name, label in _SCORES.items():
        if any(name in row for row in rows):
            values = [_number(row, name) for row in rows]
            axes.plot(step, values, marker="o", markersize=3, label=label, linewidth=2 if name == "pq" else 1)
    best, now = latest_best(rows), _number(rows[-1], "pq")
    said = "no objects" if np.isnan(now) else f"PQ now {now:.3f}"
    if best is not None:
        axes.axvline(best["step"], color="0.25", linewidth=1, linestyle="--", label=f"weights: batch {best['step']}")
        said += "" if best["pq"] is None else f", best {best['pq']:.3f} at batch {best['step']}"
    axes.set(title=f"validation: {said}", ylim=(0, 1))


def _draw_kinds(axes: Axes, rows: Sequence[Mapping[str, Any]], step: list[int]) -> None:
    """PQ of each kind of image, or with one kind the count error."""
    names = sorted({kind for row in rows for kind in row.get("kinds", {})})
    if len(names) < 2:
        axes.plot(step, [_number(row, "count_error") for row in rows], marker="o", markersize=3, label="count error")
        axes.axhline(0, color="0.6", linewidth=1)
        axes.set(title="validation: (found - true) / true objects")
        return
    for name in names:
        values = [_number(row.get("kinds", {}).get(name, {}), "pq") for row in rows]
        axes.plot(step, values, marker="o", markersize=3, label=f"{name.replace('_', ' ')}, {values[-1]:.2f}")
    axes.set(title="validation: PQ by kind of image", ylim=(0, 1))


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)


def _panel(shown: Shown) -> NDArray[np.uint8]:
    """The fullest part of a window with outlines, enlarged where it is small: `(_SIDE, _SIDE, 3)` at most."""
    height, width = shown.image.shape[:2]
    truth, found = (_painted(objects, (height, width)) for objects in (shown.truth, shown.found))
    row, col = _fullest((truth > 0) | (found > 0))
    part = np.s_[row : row + _SIDE, col : col + _SIDE]
    missed, right = _verdicts(truth, found)
    truth, found = truth[part], found[part]
    image = _brightened(shown.image[part])
    image[missed[truth]] = (0.6 * image[missed[truth]] + 0.4 * np.array(TRUE)).astype(np.uint8)
    times = max(1, min(4, _SIDE // max(truth.shape)))
    drawn: NDArray[np.uint8] = _enlarged(image, times)
    truth, found = _enlarged(truth, times), _enlarged(found, times)
    drawn[_outlines(truth)] = TRUE
    outlines = _outlines(found)
    drawn[outlines] = np.where(right[found[outlines]][:, None], RIGHT, WRONG)
    return drawn


def _enlarged(pixels: NDArray[Any], times: int) -> NDArray[Any]:
    return np.asarray(np.repeat(np.repeat(pixels, times, axis=0), times, axis=1))


def _painted(objects: Instances, shape: tuple[int, int]) -> Labels:
    return paint(objects, (0, 0, *shape)).labels


def _fullest(busy: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column where the panel-sized part with most objects begins."""
    height, width = busy.shape
    total = np.pad(busy.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    rows, cols = (np.unique([*range(0, max(1, n - _SIDE), _SIDE // 4), max(0, n - _SIDE)]) for n in (height, width))
    low, right = np.minimum(rows + _SIDE, height), np.minimum(cols + _SIDE, width)
    count = total[np.ix_(low, right)] - total[np.ix_(rows, right)] - total[np.ix_(low, cols)] + total[np.ix_(rows, cols)]
    best = np.unravel_index(int(count.argmax()), count.shape)
    return int(rows[best[0]]), int(cols[best[1]])


def _verdicts(truth: Labels, found: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By id, 0 for the background: true objects that are missed, and found ones that are right."""
    true_area, found_area = np.bincount(truth.ravel()), np.bincount(found.ravel())
    pair, shared = np.unique(truth.ravel().astype(np.int64) * len(found_area) + found.ravel(), return_counts=True)
    i, j = pair // len(found_area), pair % len(found_area)
    hit = (i > 0) & (j > 0) & (2 * shared > true_area[i] + found_area[j] - shared)
    missed, right = np.ones(len(true_area), np.bool_), np.zeros(len(found_area), np.bool_)
    missed[i[hit]] = missed[0] = False
    right[j[hit]] = True
    return missed, right


def _brightened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy that uses the whole range, so that faint objects show."""
    low, high = np.percentile(image, (0.5, 99.5))
    level = (image.astype(np.float32) - low) * (255 / max(high - low, 32.0))
    return np.asarray(np.clip(level, 0, 255), np.uint8)


def _outlines(labels: Labels) -> NDArray[np.bool_]:
    """Pixels of objects that touch something else."""
    padded = np.pad(labels, 1)
    inner = np.ones(labels.shape, np.bool_)
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner &= padded[row : row + labels.shape[0], col : col + labels.shape[1]] == labels
    outlines: NDArray[np.bool_] = (labels > 0) & ~inner
    return outlines
