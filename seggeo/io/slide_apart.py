"""What is asked of OpenSlide, as it runs in a process apart: this file is imported there, so it imports little.

A handle is kept for each open slide. One error kills an OpenSlide handle for ever, so the next read gets a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPAQUE = 128
"""Least alpha of a pixel that was scanned; at borders between whole pixels OpenSlide gives parts."""

Region = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
"""Red, green, blue `(h, w, 3)` and what was scanned `(h, w)`, None where all of it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What OpenSlide says of a slide."""

    properties: Mapping[str, str]
    levels: tuple[tuple[int, int], ...]
    """Columns and rows of each image, full resolution first."""
    other_images: tuple[str, ...]


@cache
def _handles() -> dict[str, Any]:
    """Open slides by their path."""
    return {}


def look(path: str) -> Seen:
    """Open a slide anew."""
    release(path)
    slide = _opened(path)
    properties = {}
    for name in slide.properties:
        with suppress(KeyError):  # a damaged file may have names that are no text, and are not found again
            properties[name] = slide.properties[name]
    return Seen(
        properties=properties, levels=tuple(slide.level_dimensions),
        other_images=tuple(sorted(slide.associated_images)),
    )  # fmt: skip


def read(path: str, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Region | None:
    """Pixels of a region, None where nothing of it was scanned.

    Args:
        path: The slide.
        corner: Column and row at full resolution.
        level: Which image.
        size: Columns and rows of that image.
    """
    slide = _opened(path)
    try:
        pixels = np.asarray(slide.read_region(corner, level, size))
    except Exception:
        release(path)
        raise
    alpha = pixels[..., 3]
    valid = None if alpha.min() >= OPAQUE else alpha >= OPAQUE
    if valid is not None and not valid.any():
        return None
    return np.ascontiguousarray(pixels[..., :3]), valid


def release(path: str) -> None:
    """Close a slide."""
    slide = _handles().pop(path, None)
    if slide is not None:
        slide.close()


def _opened(path: str) -> Any:
    handles = _handles()
    if path not in handles:
        import openslide

        handles[path] = openslide.OpenSlide(path)
    return handles[path]
