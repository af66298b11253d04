"""How the images of a training were read, as its weights say it, so that new ones are read alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seggeo.config import Reading
from seggeo.train.scenes import Scene


def stretch_of(reading: Reading, scenes: Sequence[Scene]) -> str:
    """The stretch in `--stretch`'s words: that of all scenes, or where they differ what was asked for."""
    words = {scene.stretch for scene in scenes}
    return words.pop() if len(words) == 1 else reading.stretch


def slices_of(reading: Reading, scenes: Sequence[Scene]) -> dict[str, Any]:
    """How volumes are read, as far as it was asked for, JSON values; nothing where there are none."""
    if not any(scene.volume for scene in scenes):
        return {}
    asked = {
        "axis": reading.axis, "channel": None if reading.channel is None else list(reading.channel),
        "neighbours": reading.neighbours or None, "window": reading.window, "smooth": reading.smooth,
    }  # fmt: skip
    return {name: value for name, value in asked.items() if value is not None}


def smoothing_of(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Sigmas, px, that volumes were smoothed by, asked for or not, JSON values; nothing where there are no volumes."""
    found = sorted({scene.view.reading.smooth or 0.0 for scene in scenes if scene.volume})
    return {"smooth_px": found} if found else {}
