"""Which stretch an input gets, in the words of `--stretch`: the same for what is segmented and for what is learnt from."""

from __future__ import annotations

import numpy as np

from seggeo.config import Reading, window_limits
from seggeo.geometry import Frame
from seggeo.protocols import Pixels

VOLUMES = "percent:0.5,99.9"
"""Of volumes, unless something else is asked for."""


def stretch_asked(reading: Reading, overview: Pixels, frame: Frame) -> str:
    """The stretch as it is asked for: a window, and for volumes but those in colour limits that keep objects' own contrast.

    Objects may fill less than a hundredth of a volume, so that the usual percentiles would all be of its ground, and stacks
    of 8 bits often use a part of them.

    Args:
        reading: What the user asked for; a slice between its neighbours is no picture in colours, though its bands differ.
        overview: Of the whole input, in its own values.
        frame: Its work grid.
    """
    if reading.window is not None:
        low, high = window_limits(reading.window)
        return f"{low!r},{high!r}"
    is_gray = reading.neighbours > 0 or bool((overview.data == overview.data[..., :1]).all())
    if frame.depth > 1 and reading.stretch == "auto" and (is_gray or overview.data.dtype != np.uint8):
        return VOLUMES
    return reading.stretch
