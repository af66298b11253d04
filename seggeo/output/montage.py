"""A picture of a volume's result: slices side by side, each with its objects in colours that stay through the slices.

Up to 24 slices are shown, spread evenly over those that hold objects. They are drawn one by one, so that memory is that of
the picture. Where the file says how a patient lies, slices are turned as radiologists look at them: seen from the feet or
from the front, anterior or superior at the top, the patient's right on the left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.overlay import Picture, caption_of, footer_of, label_map, overlay, pen_for
from seggeo.output.scalebar import ScaleBar, scale_bar
from seggeo.output.volume_slices import slice_counts
from seggeo.protocols import Result

MOST_SLICES = 24
_WIDTH, _HEIGHT = 2400, 2000  # px of the whole picture, at most
_ENLARGE = 4  # picture pixels along a voxel, at most
_GAP = 6  # px between slices
_GROUND = (24, 25, 28)
_TEXT, _RIM = (255, 255, 255), (0, 0, 0)
_ENDS = {"RAS": (("L", "R"), ("P", "A"), ("I", "S")), "LPS": (("R", "L"), ("A", "P"), ("I", "S"))}
"""Letters of the sides that x, y and z come from and go to."""


def draw_montage(result: Result, slices: Callable[[int], NDArray[np.uint8]], path: Path) -> Path:
    """Draw up to 24 slices with their objects as a PNG and return `path`; same result and slices, same bytes.

    Args:
        result: What to draw; of overlapping objects the smaller lies on top.
        slices: Gives slice `z`, the whole of it, in stretched RGB, uint8 `(h, w, 3)`, usually decimated. Called once for each
            slice shown, in ascending order.
        path: The PNG, replaced if it exists.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    counts = slice_counts(result)
    shown = chosen_slices(counts, MOST_SLICES)
    grid = _grid(result, len(shown))
    rows = ceil(len(shown) / grid.columns)
    canvas = np.empty((rows * (grid.height + _GAP) - _GAP, grid.columns * (grid.width + _GAP) - _GAP, 3), np.uint8)
    canvas[:] = _GROUND
    for i, z in enumerate(shown):
        row, col = i // grid.columns * (grid.height + _GAP), i % grid.columns * (grid.width + _GAP)
        canvas[row : row + grid.height, col : col + grid.width] = _panel(result, slices(z), z, grid)
    picture = np.concatenate([canvas, _foot(result, counts, grid, canvas.shape[1])])
    with publishing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=False)
    return path


def chosen_slices(counts: NDArray[np.int64], most: int) -> list[int]:
    """Up to `most` slices, ascending, spread evenly over those that hold objects; over all of them if none does.

    Args:
        counts: Objects in each slice, `(depth,)`.
        most: Slices, 1 or more.
    """
    filled = np.flatnonzero(counts) if counts.any() else np.arange(len(counts))
    if len(filled) <= most:
        return [int(z) for z in filled]
    # From the middle of each of `most` equal shares: first and last slices often hold but the caps of objects.
    return [int(filled[int((i + 0.5) * len(filled) / most)]) for i in range(most)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """How slices are laid out; sizes in px of the picture."""

    columns: int
    height: int
    width: int
    bar: tuple[ScaleBar, float]
    """The scale bar, and picture pixels along a step of col."""
    turned: tuple[slice, slice]
    """Rows and columns of a slice in the order in which they are shown."""
    sides: str
    """What lies at the top and on the left of a slice, for the reader; empty where nobody knows."""


def _grid(result: Result, count: int) -> _Grid:
    """The layout that shows `count` slices largest, voxels with their true proportions."""
    frame = result.frame
    step = frame.placement.spacing if frame.placement is not None else frame.spacing
    smaller = min(step[1], step[2])
    tall, wide = frame.height * step[1] / smaller, frame.width * step[2] / smaller  # px at one picture pixel along a voxel

    def scale(columns: int) -> float:
        across = (_WIDTH - _GAP * (columns - 1)) / (columns * wide)
        down = (_HEIGHT - _GAP * (ceil(count / columns) - 1)) / (ceil(count / columns) * tall)
        return min(across, down, _ENLARGE)

    columns = max(range(1, count + 1), key=lambda n: (scale(n), -abs(n - count**0.5)))
    zoom = scale(columns)
    width = max(1, round(wide * zoom))
    across, (turned, sides) = width / frame.width, _orientation(frame)
    return _Grid(
        columns=columns, height=max(1, round(tall * zoom)), width=width,
        bar=(scale_bar(frame, frame.window, most=frame.width * 0.5), across), turned=turned, sides=sides,
    )  # fmt: skip


def _orientation(frame: Frame) -> tuple[tuple[slice, slice], str]:
    """How a patient's slices are turned, and what then lies at the top and on the left."""
    place = frame.placement
    ends = _ENDS.get(place.space) if place is not None else None
    order, sides = [slice(None), slice(None)], []
    if place is None or ends is None:
        return (order[0], order[1]), ""
    for axis, first in ((0, "AS"), (1, "RA")):
        along = np.asarray(place.matrix)[:, axis + 1]
        nearest = int(np.argmax(np.abs(along)))
        begins, stops = ends[nearest] if along[nearest] > 0 else ends[nearest][::-1]
        if stops in first:
            order[axis], begins = slice(None, None, -1), stops
        sides.append(begins)
    return (order[0], order[1]), f"{sides[0]} at the top, {sides[1]} on the left"


def _panel(result: Result, image: NDArray[np.uint8], z: int, grid: _Grid) -> Picture:
    """One slice with its objects and its number."""
    shape, size = (grid.height, grid.width), (grid.width, grid.height)
    filtering = Image.Resampling.BOX if image.shape[1] > shape[1] else Image.Resampling.BICUBIC
    scene = np.array(Image.fromarray(image).resize(size, filtering))
    window = result.frame.window
    ids = label_map([result.in_window(window, z)], window, shape, exclusive=result.exclusive)
    overlay(scene, ids, pen_for(ids))
    picture = Image.fromarray(scene[grid.turned])
    text = max(11, min(26, shape[1] // 12))
    ImageDraw.Draw(picture).text(
        (text * 0.4, text * 0.25), f"{z}", fill=_TEXT, font=ImageFont.load_default(size=text), stroke_width=max(1, text // 9),
        stroke_fill=_RIM,
    )  # fmt: skip
    return np.array(picture)


def _foot(result: Result, counts: NDArray[np.int64], grid: _Grid, width: int) -> Picture:
    filled, kind = np.flatnonzero(counts), "frames" if result.frame.is_series else "slices"
    where = f"found in {kind} {filled[0]} to {filled[-1]} of" if len(filled) else f"looked for in {kind}"
    text = f"{caption_of(result, result.count)} \N{MIDDLE DOT} {where} 0 to {len(counts) - 1}"
    text += f" \N{MIDDLE DOT} {grid.sides}" if grid.sides else ""
    return footer_of(width, text, grid.bar)
