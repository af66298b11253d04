"""A picture of the result, screen size: outlines of all objects over the stretched scene, a scale bar and a caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seggeo.files import publishing
from seggeo.geometry import Window
from seggeo.output.overlay import Picture, caption_of, footer_of, label_map, overlay, pen_for
from seggeo.output.scalebar import scale_bar
from seggeo.protocols import Result

_MOST = 1600  # px of the longer side: a full screen
_ENLARGE = 4  # at most, for small scenes


def draw_preview(
    result: Result, image: Picture, path: Path, *, window: Window | None = None, valid: NDArray[np.bool_] | None = None
) -> Path:
    """Draw the objects over the scene as a PNG and return `path`.

    Args:
        result: What to draw; of overlapping objects the smaller lies on top.
        image: The whole frame in stretched RGB, uint8 `(h, w, 3)`, usually decimated.
        path: The PNG, replaced if it exists.
        window: Draw only this part of the work grid; default: all of it.
        valid: True where `image` is real data, `(h, w)`; the rest becomes a light checkerboard.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    view = result.frame.window if window is None else window
    longest = max(view.shape)
    scale = min(_MOST, _ENLARGE * longest) / longest
    shape = max(1, round(view.height * scale)), max(1, round(view.width * scale))
    scene = _scene(image, valid, result, view, shape)
    seen = None if window is None else result.in_window(window)
    batches = result.iter_objects() if seen is None else iter([seen])
    ids = label_map(batches, view, shape, exclusive=result.exclusive)
    overlay(scene, ids, pen_for(ids))
    bar = scale_bar(result.frame, view, most=view.width * 0.25)
    footer = footer_of(
        scene.shape[1], caption_of(result, result.count if seen is None else len(seen)), (bar, shape[1] / view.width)
    )
    with publishing(path) as temporary:
        Image.fromarray(np.concatenate([scene, footer])).save(temporary, format="PNG", compress_level=2)
    return path


def _scene(image: Picture, valid: NDArray[np.bool_] | None, result: Result, view: Window, shape: tuple[int, int]) -> Picture:
    """The part of `image` that shows `view`, at the picture's size."""
    down, right = image.shape[0] / result.frame.height, image.shape[1] / result.frame.width
    box = view.col * right, view.row * down, view.col_stop * right, view.row_stop * down
    size = shape[1], shape[0]
    is_smaller = max(box[2] - box[0], box[3] - box[1]) > max(size)
    filtering = Image.Resampling.BOX if is_smaller else Image.Resampling.BICUBIC
    scene = np.array(Image.fromarray(image).resize(size, filtering, box=box))
    if valid is not None:
        blank = ~np.array(Image.fromarray(valid).resize(size, Image.Resampling.NEAREST, box=box))
        rows, cols = np.nonzero(blank)
        scene[blank] = np.where((rows // 12 + cols // 12) % 2, 236, 222).astype(np.uint8)[:, None]
    return scene
