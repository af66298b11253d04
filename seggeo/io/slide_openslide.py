"""Slides that OpenSlide reads: NDPI, MRXS, SCN, BIF, Philips, DICOM and whatever tifffile cannot decode.

1. The image is the box of `openslide.bounds-*`, what was scanned; `origin` is where that box lies in the whole slide.
2. Blocks are read at fixed places, so that a pixel never depends on the window: OpenSlide interpolates where a level's
   pixels do not fall on whole full-resolution ones.
3. A damaged file can crash OpenSlide or keep it for ever, so it works in a process apart: what comes of that is a
   refusal, of a slide when it is opened and of a tile later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from seggeo.apart import Apart, LostError
from seggeo.errors import SourceError
from seggeo.io import slide_apart
from seggeo.io.mpp import Claim, claim, number, tiff_claim
from seggeo.io.slide_apart import Region, Seen
from seggeo.io.slide_pyramid import Block, PyramidLevel, SlideFacts, damaged_slide

BLOCK = 512
"""Side of what is read at once."""
SILENCE_S = 120.0
"""Longest wait for an answer; files on slow servers take seconds to open."""
_MOST_HANGS = 3
"""A slide that keeps OpenSlide so often is not read any more: each time costs the whole wait."""
_MOST_DEATHS = 10
"""Nor one that crashes it so often in a row: each time costs the start of a process, and a slide has many blocks."""
_UNIT_UM = {"inch": 25400.0, "centimeter": 10000.0}
_ERRORS = (OSError, ValueError, MemoryError, ArithmeticError, LookupError)


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
    return OpenSlidePyramid(path, name, (openslide.OpenSlideError, *_ERRORS))


class OpenSlidePyramid:
    """A `Pyramid` over what OpenSlide reads in a process apart."""

    def __init__(self, path: str, name: str, errors: tuple[type[Exception], ...]) -> None:
        """Args: where it is; what it is called; what OpenSlide raises."""
        self._path, self._name, self._errors = path, name, errors
        self._hangs = self._deaths = 0
        self._lethal: dict[tuple[Any, ...], str] = {}
        seen: Seen = self._ask(slide_apart.look)
        properties, (width, height) = seen.properties, seen.levels[0]
        self._box = bounds(properties, (width, height))
        top, left, _, _ = self._box
        self.facts = SlideFacts(
            kind=f"{properties.get('openslide.vendor', 'slide')} (OpenSlide)",
            levels=_levels(seen.levels, self._box),
            dtype=np.dtype(np.uint8),
            channels=("red", "green", "blue"),
            is_rgb=True,
            origin=(float(top), float(left)),
            claims=property_claims(properties),
            notes={
                "vendor": properties.get("openslide.vendor"),
                "objective": properties.get("openslide.objective-power"),
                "whole_slide": [height, width],
                "other_images": list(seen.other_images),
            },
        )

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """See `Pyramid`; what was not scanned has alpha 0 and is not valid."""
        shape, (down, right) = self.facts.levels[level].shape, self.facts.levels[level].downsample
        height, width = min(BLOCK, shape[0] - row * BLOCK), min(BLOCK, shape[1] - col * BLOCK)
        corner = self._box[1] + round(col * BLOCK * right), self._box[0] + round(row * BLOCK * down)
        where = f" at column {corner[0]}, row {corner[1]} of level {level}"
        region: Region | None = self._ask(slide_apart.read, corner, level, (width, height), where=where)
        if region is None or channels == (0, 1, 2):
            return region
        return np.ascontiguousarray(region[0][..., list(channels)]), region[1]

    def close(self) -> None:
        """Release the file."""
        with suppress(LostError):
            _apart().call(slide_apart.release, self._path, timeout_s=SILENCE_S)

    def _ask(self, function: Callable[..., Any], *arguments: Any, where: str = "") -> Any:
        if self._hangs >= _MOST_HANGS or self._deaths >= _MOST_DEATHS:
            spent = LostError(f"{len(self._lethal)} processes ended over it, so it is not tried again")
            raise damaged_slide(self._name, spent, where)
        if arguments in self._lethal:
            raise damaged_slide(self._name, LostError(self._lethal[arguments]), where)
        try:
            answer = _apart().call(function, self._path, *arguments, timeout_s=SILENCE_S)
        except LostError as error:
            self._hangs, self._deaths = self._hangs + error.hung, self._deaths + (not error.hung)
            self._lethal[arguments] = str(error)
            raise damaged_slide(self._name, error, where) from error
        except self._errors as error:
            raise self._refused(error, where) from error
        self._deaths = 0
        return answer

    def _refused(self, error: Exception, where: str) -> SourceError:
        """A part that cannot be read is damaged; a whole slide may also be of a kind that OpenSlide does not read."""
        refusal = damaged_slide(self._name, error, where)
        if where:
            return refusal
        mend = "copy or download the file again; if it is whole, convert it: bfconvert IN OUT.ome.tif"
        return SourceError(what=refusal.what, why=f"OpenSlide says: {refusal.why}", mend=mend)


@cache
def _apart() -> Apart:
    """Where OpenSlide works for this process."""
    return Apart()


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


def _levels(sizes: Sequence[tuple[int, int]], box: tuple[int, int, int, int]) -> tuple[PyramidLevel, ...]:
    """The levels of the box, by the true ratios of the whole slide's sides; `sizes` are columns and rows."""
    width, height = sizes[0]
    top, left, bottom, right = box
    levels = []
    for cols, rows in sizes:
        down, across = height / rows, width / cols
        shape = max(1, int((bottom - top) / down + 1e-9)), max(1, int((right - left) / across + 1e-9))
        levels.append(PyramidLevel(shape=shape, downsample=(down, across), block=(BLOCK, BLOCK)))
    return tuple(levels)
