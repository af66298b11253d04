"""Slides that OpenSlide reads: NDPI, MRXS, SCN, BIF, Philips, DICOM and whatever tifffile cannot decode.

1. The image is the box of `openslide.bounds-*`, what was scanned; `origin` is where that box lies in the whole slide.
2. Blocks are read at fixed places, so that a pixel never depends on the window: OpenSlide interpolates where a level's
   pixels do not fall on whole full-resolution ones.
3. One error kills an OpenSlide handle for ever: the next read gets a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SeggeoError, SourceError
from seggeo.io.mpp import Claim, claim, number, tiff_claim
from seggeo.io.slide_pyramid import Block, PyramidLevel, SlideFacts, damaged_slide

BLOCK = 512
"""Side of what is read at once."""
_OPAQUE = 128
"""Least alpha of a pixel that was scanned; at borders between whole pixels OpenSlide gives parts."""
_UNIT_UM = {"inch": 25400.0, "centimeter": 10000.0}
_ERRORS = (OSError, ValueError, MemoryError, OverflowError)


def detect(path: str) -> str | None:
    """The vendor whose format OpenSlide recognises, or None, also where OpenSlide is not installed."""
    try:
        import openslide
    except (ImportError, OSError):
        return None
    try:
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, *_ERRORS):
        return None
    return vendor


def open_with_openslide(path: str, name: str) -> OpenSlidePyramid:
    """The slide as OpenSlide sees it.

    Raises:
        SourceError: OpenSlide is not installed, or cannot read the file.
    """
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SourceError(
            what=f"{name} needs OpenSlide",
            why=f"it is of a format that only OpenSlide reads, and that is not here ({error})",
            mend='pip install "seggeo[slides]"',
        ) from error
    try:
        return OpenSlidePyramid(path, name, openslide)
    except SeggeoError:
        raise
    except (openslide.OpenSlideError, *_ERRORS) as error:
        raise damaged_slide(name, error) from error


class OpenSlidePyramid:
    """A `Pyramid` over an OpenSlide handle that is replaced after an error."""

    def __init__(self, path: str, name: str, library: Any) -> None:
        self._path = path
        self._name = name
        self._library = library
        self._lock = threading.Lock()
        self._handle = library.OpenSlide(path)
        properties = dict(self._handle.properties)
        self._box = bounds(properties, self._handle.dimensions)
        top, left, _, _ = self._box
        self.facts = SlideFacts(
            kind=f"{properties.get('openslide.vendor', 'slide')} (OpenSlide)",
            levels=_levels(self._handle, self._box),
            dtype=np.dtype(np.uint8),
            channels=("red", "green", "blue"),
            is_rgb=True,
            origin=(float(top), float(left)),
            claims=property_claims(properties),
            notes={
                "vendor": properties.get("openslide.vendor"),
                "objective": properties.get("openslide.objective-power"),
                "whole_slide": [self._handle.dimensions[1], self._handle.dimensions[0]],
                "other_images": sorted(self._handle.associated_images),
            },
        )

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """See `Pyramid`; what was not scanned has alpha 0 and is not valid."""
        shape, (down, right) = self.facts.levels[level].shape, self.facts.levels[level].downsample
        height, width = min(BLOCK, shape[0] - row * BLOCK), min(BLOCK, shape[1] - col * BLOCK)
        corner = self._box[1] + round(col * BLOCK * right), self._box[0] + round(row * BLOCK * down)
        pixels = self._read(corner, level, (width, height))
        alpha = pixels[..., 3]
        valid = None if alpha.min() >= _OPAQUE else alpha >= _OPAQUE
        if valid is not None and not valid.any():
            return None
        values = pixels[..., :3] if channels == (0, 1, 2) else pixels[..., list(channels)]
        return np.ascontiguousarray(values), valid

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._handle.close()

    def _read(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """RGBA; read once more with a new handle, as another thread's error may have killed this one."""
        reason: Exception | None = None
        for _ in range(2):
            handle = self._handle
            try:
                return np.asarray(handle.read_region(corner, level, size))
            except (self._library.OpenSlideError, *_ERRORS) as error:
                reason = error
                self._replace(handle)
        assert reason is not None
        where = f" at column {corner[0]}, row {corner[1]} of level {level}"
        raise damaged_slide(self._name, reason, where) from reason

    def _replace(self, dead: Any) -> None:
        # Not closed: other threads may be inside it. It goes when they let it go.
        with self._lock:
            if self._handle is dead:
                try:
                    self._handle = self._library.OpenSlide(self._path)
                except (self._library.OpenSlideError, *_ERRORS) as error:
                    raise damaged_slide(self._name, error) from error


def bounds(properties: Mapping[str, str], dimensions: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns `(top, left, bottom, right)` of what was scanned, in full-resolution pixels of the whole slide."""
    width, height = dimensions
    values = [number(properties.get(f"openslide.bounds-{key}")) for key in ("y", "x", "height", "width")]
    if any(value is None for value in values):
        return 0, 0, height, width
    top, left, rows, cols = (int(value or 0) for value in values)
    bottom, right = min(height, top + rows), min(width, left + cols)
    top, left = max(0, top), max(0, left)
    return (top, left, bottom, right) if top < bottom and left < right else (0, 0, height, width)


def property_claims(properties: Mapping[str, str]) -> tuple[Claim, ...]:
    """What OpenSlide and the TIFF underneath say of the resolution."""
    cols, rows = (number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    # OpenSlide itself takes the tags of a plain TIFF for its mpp; then they are no second witness, and may be a printer's.
    plain = properties.get("openslide.vendor") == "generic-tiff"
    origin = "DICOM" if properties.get("openslide.vendor") == "dicom" else "vendor"
    x, y = (number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    tags = tiff_claim(y or 0, x or 0, _UNIT_UM.get(properties.get("tiff.ResolutionUnit", "")))
    return (*(() if plain else claim(origin, rows, cols)), *tags)


def _levels(handle: Any, box: tuple[int, int, int, int]) -> tuple[PyramidLevel, ...]:
    """The levels of the box, by the true ratios of the whole slide's sides."""
    width, height = handle.dimensions
    top, left, bottom, right = box
    levels = []
    for cols, rows in handle.level_dimensions:
        down, across = height / rows, width / cols
        shape = max(1, int((bottom - top) / down + 1e-9)), max(1, int((right - left) / across + 1e-9))
        levels.append(PyramidLevel(shape=shape, downsample=(down, across), block=(BLOCK, BLOCK)))
    return tuple(levels)
