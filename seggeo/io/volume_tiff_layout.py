"""Which pages of a TIFF make a volume, and in which order: by the axes its metadata name, else in the order of the pages."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from seggeo.errors import SourceError
from seggeo.io.slide_tiff_facts import has_alpha
from seggeo.io.slide_tiff_layout import open_directories

_SLIDES = ("svs", "ndpi", "scn", "philips", "bif", "qpi")
_PLAIN = ("generic", "uniform", "shaped")
_REDUCED_OR_MASK = 1 | 4
_SIMILAR = 0.5
"""Images of at least this share of the largest one's pixels might be meant as well."""
_UNNAMED = "IQRE"
"""What tifffile calls an axis of pages that no metadata name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The planes of a volume inside a TIFF."""

    kind: str
    series: Any
    """tifffile's."""
    index: int
    """Number of the series."""
    pages: tuple[tuple[str, int], ...]
    """Axes whose every position has a plane of its own, and their lengths, slowest first: of Z, T and C."""
    is_named: bool
    """False where nothing says that the pages are slices."""

    @property
    def keyframe(self) -> Any:
        """The page whose layout all have."""
        return self.series.keyframe

    def size(self, axis: str) -> int:
        """Length of an axis of planes, 1 where there is none."""
        return dict(self.pages).get(axis, 1)

    @property
    def is_series(self) -> bool:
        """True where time is the only axis besides rows and columns."""
        return self.size("Z") == 1 and self.size("T") > 1

    @property
    def samples(self) -> int:
        """Values of a pixel in one page, opacity left out."""
        return int(self.keyframe.samplesperpixel) - has_alpha(self.keyframe)

    def plane(self, z: int, t: int, c: int) -> int:
        """Number of the page of a slice, time and channel."""
        place = {"Z": z, "T": t, "C": c}
        number = 0
        for axis, count in self.pages:
            number = number * count + place[axis]
        return number


def is_tiff_volume(path: str) -> bool:
    """True for a TIFF of several slices or times that is no slide and has no place on the ground. No pixel is read.

    Raises:
        One of `READ_ERRORS`: The file is damaged.
    """
    from seggeo.io.slide_detect import has_place

    with open_directories(path) as tif:
        if any(getattr(tif, f"is_{kind}") for kind in _SLIDES):
            return False
        stack = find_stack(tif, path)
        if stack is None or np.dtype(stack.keyframe.dtype).kind not in "uif":
            return False
        return not (stack.kind == "TIFF" and has_place(tif.pages[0], path))


def find_stack(tif: Any, name: str) -> Stack | None:
    """The volume in an open TIFF; None where its largest image is a single plane.

    Raises:
        SourceError: Its axes cannot be told apart.
    """
    sizes = [prod(series.shape) if "Y" in series.axes and "X" in series.axes else 0 for series in tif.series]
    if not sizes or max(sizes) == 0:
        return None
    index = sizes.index(max(sizes))
    series = tif.series[index]
    plain = series.kind in _PLAIN
    if plain and (len(series.levels) > 1 or any(int(s.keyframe.subfiletype) & _REDUCED_OR_MASK for s in tif.series)):
        return None
    outer = [(axis, int(n)) for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
    longer = [(axis, n) for axis, n in outer if n > 1 and axis != "C"]
    if not longer or (plain and series.axes.endswith("YX") and "S" in series.axes and not _is_sampled(series)):
        return None
    named = {axis for axis, _ in longer} <= {"Z", "T"}
    if not named:
        outer = _as_slices(outer, longer, name)
    kept = tuple((axis, n) for axis, n in outer if n > 1)
    kind = {"ome": "OME-TIFF", "imagej": "ImageJ TIFF", "lsm": "LSM"}.get(series.kind, f"{series.kind} TIFF")
    return Stack(kind="TIFF" if plain else kind, series=series, index=index, pages=kept, is_named=named)


def choose_stack(tif: Any, name: str) -> Stack:
    """The volume in an open TIFF.

    Raises:
        SourceError: There is none, or several of like size.
    """
    stack = find_stack(tif, name)
    if stack is None:
        raise SourceError(
            what=f"{name} is no volume", why="it holds one plane, or images of several sizes", mend="open it as an image"
        )
    areas = [prod(series.shape) for series in tif.series]
    rivals = [i for i, area in enumerate(areas) if i != stack.index and area >= _SIMILAR * areas[stack.index]]
    if rivals:
        raise SourceError(
            what=f"{name} holds {len(rivals) + 1} images of like size",
            why="which of them is meant would be a guess: "
            + ", ".join(f"{tif.series[i].name} {tif.series[i].shape}" for i in [stack.index, *rivals][:8]),
            mend="write the one that is meant as a file of its own",
        )
    return stack


def _is_sampled(series: Any) -> bool:
    """True where the S of a series are the samples of its pages, not pages."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(series.keyframe.samplesperpixel) == int(sizes["S"])


def _as_slices(outer: list[tuple[str, int]], longer: list[tuple[str, int]], name: str) -> list[tuple[str, int]]:
    """The axes with the one that has no name taken as slices."""
    unnamed = [axis for axis, _ in longer if axis in _UNNAMED]
    others = [axis for axis, _ in longer if axis not in ("T", *_UNNAMED)]
    if len(unnamed) != 1 or others:
        raise SourceError(
            what=f"{name} has axes {', '.join(f'{axis} ({n})' for axis, n in longer)}",
            why="a volume has slices (Z), perhaps times (T) and channels (C), and what the others are is not said",
            mend="write it as OME-TIFF with named axes: tifffile.imwrite(OUT.ome.tif, data, metadata={'axes': 'ZCYX'})",
        )
    return [("Z" if axis == unnamed[0] else axis, n) for axis, n in outer if n > 1]
