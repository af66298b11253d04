"""Pictures of a report: outlines of tissue on a thumbnail, outlines of cells on a tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seggeo.geometry import Window
from seggeo.instances import Objects
from seggeo.output.polygons import outlines
from seggeo.output.style import colour_of

Image8 = NDArray[np.uint8]

_TISSUE = (20, 120, 60)
_SHADE = 0.55  # brightness left to what is not tissue, on a dark slide; on a bright one it fades to white as much


def outline_tissue(thumbnail: Image8, tissue: NDArray[np.bool_]) -> Image8:
    """The thumbnail with the tissue outlined and everything else faded.

    Args:
        thumbnail: The whole slide, uint8 RGB `(h, w, 3)`.
        tissue: True where tissue is, `(h, w)`, the whole slide at any resolution.
    """
    height, width = thumbnail.shape[:2]
    down, right = (np.arange(n) * size // n for n, size in zip((height, width), tissue.shape, strict=True))
    mask = tissue[np.ix_(down, right)]
    paper = 255.0 if thumbnail.mean() > 128 else 0.0
    faded = thumbnail * _SHADE + paper * (1 - _SHADE)
    image = np.where(mask[..., None], thumbnail, faded.astype(np.uint8)).astype(np.uint8)
    line = np.zeros(mask.shape, bool)
    line[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    line[1:] |= mask[1:] != mask[:-1]
    thick = line.copy()
    thick[:-1] |= line[1:]
    thick[:, :-1] |= line[:, 1:]
    image[thick] = _TISSUE
    return image


def outline_tile(image: Image8, objects: Objects, window: Window, *, enlarge: int = 2) -> Image8:
    """A tile with its cells outlined in their classes' colours, `enlarge` times its size.

    Args:
        image: Pixels of the window, uint8 RGB `(h, w, 3)`, at the work grid's resolution.
        objects: `result.in_window(window)`.
        window: Where the tile lies in the work grid.
        enlarge: Picture pixels along one pixel.
    """
    picture = Image.fromarray(image).resize((image.shape[1] * enlarge, image.shape[0] * enlarge), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    polygons = outlines(objects.instances)
    xy = (polygons.xy - [window.col, window.row]) * enlarge
    labels = np.repeat(objects.instances.label, np.diff(polygons.mask_ring_start))
    for low, high, label in zip(polygons.ring_start[:-1], polygons.ring_start[1:], labels.tolist(), strict=True):
        draw.line([tuple(p) for p in xy[low:high].tolist()], fill=colour_of(label), width=max(enlarge // 2 + 1, 1))
    return np.array(picture)
