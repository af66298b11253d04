"""Labels of an image's own pixels, brought to a work grid of another GSD as runs: no raster is made.

A work pixel shows what lies under its centre, the pixels of the image being those that `seggeo.io.resample` averages or
interpolates there: both grids begin at one corner, and the last work pixels may reach past the image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Frame
from seggeo.io.annotations import Annotations
from seggeo.rle import Spans, normalise, ragged_ranges

_SLIVER = 1e-6
"""Centres that rounding leaves this near below an edge lie on it."""


def at_grid(labels: Annotations, frame: Frame, step: tuple[float, float]) -> Annotations:
    """The same objects in pixels of another grid, by nearest neighbour; objects under no centre are left out, as tiny.

    Args:
        labels: Objects in the image's own pixels.
        frame: The work grid.
        step: Own rows and columns in one work pixel, as `seggeo.io.frames.gsd_step` gives them.
    """
    spans = labels.instances.spans()
    rows = _under_centres(frame.height, step[0], labels.frame.height)
    cols = _under_centres(frame.width, step[1], labels.frame.width)
    first = np.searchsorted(rows, spans.row, side="left")
    count = np.searchsorted(rows, spans.row, side="right") - first
    start, stop = np.searchsorted(cols, spans.start), np.searchsorted(cols, spans.stop)
    count[start == stop] = 0
    row, which = ragged_ranges(first, count)
    seen = Spans(owner=spans.owner[which], row=row, start=start[which], stop=stop[which])
    instances, kept = labels.instances.with_spans(normalise(seen))
    return replace(
        labels, instances=instances, ids=labels.ids[kept], crowd=labels.crowd[kept], frame=frame,
        tiny=labels.tiny + len(labels) - len(kept),
    )  # fmt: skip


def _under_centres(count: int, step: float, size: int) -> NDArray[np.int64]:
    """Own pixel, of `size`, under the centre of each of `count` work pixels along an axis, ascending."""
    centre = (np.arange(count) + 0.5) * step
    under: NDArray[np.int64] = np.minimum(np.floor(centre + _SLIVER).astype(np.int64), size - 1)
    return under
