"""Objects drawn over a picture: the ink of previews and montages, and the line of text below them.

1. `label_map` draws all ids at twice the resolution of the picture, from row intervals, batch by batch;
2. `overlay` finds outlines there and blends them, strip by strip, two by two pixels into one: smooth lines;
3. `footer_of` makes caption and bar.

Memory is that of the picture, not of the scene, and a million objects take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seggeo.geometry import Window
from seggeo.instances import Objects
from seggeo.output.batches import bounded
from seggeo.output.scalebar import ScaleBar
from seggeo.protocols import Result

Picture = NDArray[np.uint8]

_FINE = 2  # label pixels along one picture pixel
_STRIP = 128  # picture rows blended at once
_PIXELS = 1_000_000  # label pixels drawn at once
_FILL, _SHADE = 0.16, 0.45  # opacity of an object's inside and of the dark rim around it
_PAPER, _INK = (250, 250, 248), (45, 48, 52)
_PALETTE = np.array(
    [
        (255, 209, 26), (64, 224, 255), (255, 92, 138), (126, 255, 102), (255, 150, 46),
        (190, 150, 255), (250, 250, 250), (50, 235, 180), (255, 120, 255), (120, 190, 255), (225, 255, 90),
    ],
    np.float32,
)  # fmt: skip
_FIRST = 2  # ink of the first colour: before it come none and the rim's


@dataclass(slots=True, kw_only=True)
class _Canvas:
    """Ids at `_FINE` times the picture's resolution, and how large their objects are where those may overlap."""

    ids: NDArray[np.uint32]
    area: NDArray[np.float32] | None


def label_map(batches: Iterable[Objects], view: Window, shape: tuple[int, int], *, exclusive: bool) -> NDArray[np.uint32]:
    """Ids of a part of the work grid at `_FINE` times a picture's resolution, 0 where no object is.

    Args:
        batches: What to draw; every object shows, however small.
        view: The part.
        shape: Height and width of the picture, px.
        exclusive: True where objects never share a pixel; else the smaller of two lies on top.
    """
    height, width = shape[0] * _FINE, shape[1] * _FINE
    area = None if exclusive else np.full(height * width, np.inf, np.float32)
    canvas = _Canvas(ids=np.zeros(height * width, np.uint32), area=area)
    for objects in bounded(batches):
        order = np.argsort(-objects.instances.area, kind="stable")  # large ones first, parts on top
        instances, ids = objects.instances.take(order), objects.id[order]
        spans = instances.spans()
        top, bottom = _samples(spans.row, spans.row + 1, (view.row, view.height), height)
        left, right = _samples(spans.start, spans.stop, (view.col, view.width), width)
        _draw(canvas, width, np.stack([top, bottom, left, right]), (ids[spans.owner], instances.area[spans.owner]))
        dots, where = _dots(instances.box, view, (height, width))
        _draw(canvas, width, where, (ids[dots], instances.area[dots]))
    return canvas.ids.reshape(height, width)


def _samples(
    start: NDArray[np.int64], stop: NDArray[np.int64], extent: tuple[int, int], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last of the `count` samples of an extent whose centres lie in `start` to `stop`."""
    origin, length = extent
    ends = [np.ceil((edge - origin) * (count / length) - 0.5).astype(np.int64) for edge in (start, stop)]
    return np.clip(ends[0], 0, count), np.clip(ends[1], 0, count)


def _dots(box: NDArray[np.int32], view: Window, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects so small that sampling may miss them, and the one label pixel that each gets."""
    step = view.height / shape[0]
    row, col = (box[:, 0] + box[:, 2]) / 2 - view.row, (box[:, 1] + box[:, 3]) / 2 - view.col
    is_small = ((box[:, 2] - box[:, 0] < 2 * step) | (box[:, 3] - box[:, 1] < 2 * step)) & (step > 1)
    dots = np.flatnonzero(is_small & (row >= 0) & (row < view.height) & (col >= 0) & (col < view.width))
    r, c = (row[dots] / step).astype(np.int64), (col[dots] * (shape[1] / view.width)).astype(np.int64)
    r, c = np.minimum(r, shape[0] - 1), np.minimum(c, shape[1] - 1)
    return dots, np.stack([r, r + 1, c, c + 1])


def _draw(canvas: _Canvas, width: int, where: NDArray[np.int64], what: tuple[NDArray[np.uint32], NDArray[np.int64]]) -> None:
    """Fill boxes (top, bottom, left, right) of label pixels with ids; later ones lie on top."""
    keep = np.flatnonzero((where[1] > where[0]) & (where[3] > where[2]))
    lines = where[1, keep] - where[0, keep]
    which = np.repeat(keep, lines)
    row = where[0, which] + np.arange(len(which)) - np.repeat(np.cumsum(lines) - lines, lines)
    start, length = row * width + where[2, which], where[3, which] - where[2, which]
    cuts = np.flatnonzero(np.diff(np.cumsum(length) // _PIXELS)) + 1
    for first, last in zip([0, *cuts], [*cuts, len(which)], strict=True):
        part, n = which[first:last], length[first:last]
        ends = np.cumsum(n)
        pixels = np.repeat(start[first:last] - (ends - n), n) + np.arange(n.sum())
        ids, area = np.repeat(what[0][part], n), np.repeat(what[1][part].astype(np.float32), n)
        if canvas.area is not None:
            on_top = area <= canvas.area[pixels]
            pixels, ids, area = pixels[on_top], ids[on_top], area[on_top]
            canvas.area[pixels] = area
        canvas.ids[pixels] = ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """How outlines are drawn."""

    width: int
    """In label pixels."""
    opacity: float


def pen_for(ids: NDArray[np.uint32]) -> Pen:
    """Broad lines around few large objects; thin and translucent ones where objects are a few pixels wide."""
    corners = ids[:-1, :-1] != ids[1:, 1:]
    # Of n discs of diameter d, a diagonal neighbour differs along about 4 n d pixels out of 0.8 n d^2.
    size = 5 * int(np.count_nonzero(ids)) / max(1, int(np.count_nonzero(corners)))
    return Pen(width=int(np.clip(size / 24, 2, 5)), opacity=float(np.clip(0.4 + size / 20, 0.5, 1)))


def overlay(scene: Picture, ids: NDArray[np.uint32], pen: Pen) -> None:
    """Blend outlines and insides into `scene`, in place."""
    margin, inks = pen.width + 1, _inks(pen)
    for first in range(0, len(scene), _STRIP):
        last = min(first + _STRIP, len(scene))
        low, high = max(0, first * _FINE - margin), min(len(ids), last * _FINE + margin)
        if not ids[low:high].any():
            continue
        which = _which(ids[low:high], pen)[first * _FINE - low : last * _FINE - low]
        mixed = _averaged(which, inks)
        scene[first:last] = np.rint(scene[first:last] * (1 - mixed[..., 3:]) + mixed[..., :3]).astype(np.uint8)


def _averaged(which: NDArray[np.uint8], inks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inks of a picture's pixels, `(h, w, 4)`, from those of their label pixels; most are of one ink all over."""
    corners = [which[row::_FINE, col::_FINE] for row in range(_FINE) for col in range(_FINE)]
    averaged = np.take(inks, corners[0], axis=0)
    row, col = np.nonzero(np.any([corner != corners[0] for corner in corners[1:]], axis=0))
    averaged[row, col] = sum(inks[corner[row, col]] for corner in corners) / np.float32(len(corners))
    return averaged


def _inks(pen: Pen) -> NDArray[np.float32]:
    """What pixels may be covered with: colour times opacity, and opacity; nothing, rim, lines and insides of each colour."""
    shades = np.array([0, _SHADE, pen.opacity, _FILL], np.float32)
    opacity = np.repeat(shades, [1, 1, len(_PALETTE), len(_PALETTE)])[:, None]
    colour = np.concatenate([np.zeros((_FIRST, 3), np.float32), _PALETTE, _PALETTE])
    return np.concatenate([colour * opacity, opacity], axis=1)


def _which(ids: NDArray[np.uint32], pen: Pen) -> NDArray[np.uint8]:
    """Which of `_inks` covers every label pixel."""
    is_object = ids > 0
    edge = _differs(ids)
    line = edge & is_object
    for _ in range(pen.width - 1):
        line = is_object & _grown(line)
    which = (ids % np.uint32(len(_PALETTE))).astype(np.uint8)
    which += np.where(line, np.uint8(_FIRST), np.uint8(_FIRST + len(_PALETTE)))
    return np.where(is_object, which, edge.view(np.uint8))


def _differs(ids: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Pixels with another id above, below, left or right."""
    edge = np.zeros(ids.shape, bool)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def footer_of(width: int, caption: str, bar: tuple[ScaleBar, float]) -> Picture:
    """Caption on the left, scale bar on the right; a narrow picture shrinks both."""
    size = max(10, min(22, width // 40))
    font = ImageFont.load_default(size=size)
    paper = Image.new("RGB", (width, 2 * size + size // 2), _PAPER)
    draw = ImageDraw.Draw(paper)
    middle, margin = paper.height / 2, size
    right, left = width - margin, width - margin - bar[0].length * bar[1]
    draw.text((margin, middle), caption, fill=_INK, font=font, anchor="lm")
    draw.line([(left, middle), (right, middle)], fill=_INK, width=max(2, size // 7))
    for x in (left, right):
        draw.line([(x, middle - size / 3), (x, middle + size / 3)], fill=_INK, width=max(2, size // 7))
    draw.text((left - size * 0.6, middle), bar[0].text, fill=_INK, font=font, anchor="rm")
    return np.array(paper)


def caption_of(result: Result, count: int) -> str:
    """How many objects, and by which model."""
    model = result.provenance.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return f"{count:,} object{'' if count == 1 else 's'}" + (f" \N{MIDDLE DOT} {name}" if name else "")
