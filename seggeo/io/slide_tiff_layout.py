"""Which images of a TIFF make the slide: one pyramid of one plane, of which label, macro and thumbnail are no part.

1. `choose_pages` walks the pages of Aperio and plain files: tiled ones with the shape of a reduction of the first.
2. `choose_series` takes what tifffile makes of OME, ImageJ, LSM and other files, and refuses stacks and time series.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tifffile

from seggeo.errors import SourceError
from seggeo.io.slide_array import check_axes

_MASK = 4
"""Bit of NewSubfileType: a transparency mask, not an image."""
_ROUNDING = 2
"""A reduced side may differ from the quotient by this many pixels."""
_MAX_PAGES = 4096
_SIMILAR = 0.5
"""Images of at least this share of the largest one's pixels might be meant as well."""

# tifffile logs a line for every tag it dislikes; what matters of that is said by our own refusals.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffImage:
    """One level: its planes have one layout, that of `keyframe`."""

    keyframe: Any
    """A tifffile page."""
    planes: tuple[Any, ...]
    """One tifffile page or frame per channel; None where it is not in the file. One alone may hold all samples."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.keyframe.imagelength), int(self.keyframe.imagewidth)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffLayout:
    """The slide inside a TIFF."""

    kind: str
    images: tuple[TiffImage, ...]
    """Full resolution first."""
    series: Any = None
    """tifffile's series where the layout comes from one."""
    index: int = 0
    """Its number."""
    others: tuple[str, ...] = field(default=())
    """Images of the file that are no part of the pyramid."""


def open_directories(path: str) -> tifffile.TiffFile:
    """Tifffile's handle; planes of an OME-TIFF that lie in other files are not followed, as the file itself names them."""
    return tifffile.TiffFile(path, _multifile=False)


def choose_layout(tif: Any, name: str) -> TiffLayout:
    """The slide of an open TIFF.

    Raises:
        SourceError: It holds a stack, a time series or several images of like size.
    """
    if len(tif.pages) > _MAX_PAGES and not tif.is_ome:
        raise _stack(name, len(tif.pages))
    if tif.is_svs:
        return choose_pages(tif, "Aperio SVS", name)
    kind = tif.series[0].kind if tif.series else "generic"
    if kind in {"generic", "uniform"}:
        return choose_pages(tif, "TIFF", name)
    return choose_series(tif, kind, name)


def choose_pages(tif: Any, kind: str, name: str) -> TiffLayout:
    """The first page and those that are reductions of it, by their shapes.

    Raises:
        SourceError: Other pages have the first one's shape.
    """
    tif.pages.useframes = False
    pages = list(tif.pages)
    first = pages[0]
    candidates = [*pages[1:], *([] if first.subifds is None else first.pages)]
    same = [p for p in candidates if _shape(p) == _shape(first) and not int(p.subfiletype) & (_MASK | 1)]
    if same and kind == "TIFF":
        raise _stack(name, len(same) + 1)
    images = {_shape(first): first}
    for page in candidates:
        if _is_reduction(page, first):
            images.setdefault(_shape(page), page)
    ordered = sorted(images.values(), key=lambda p: -int(p.imagewidth))
    used = {id(page) for page in ordered}
    return TiffLayout(
        kind=kind,
        images=tuple(TiffImage(keyframe=page, planes=(page,)) for page in ordered),
        others=tuple(f"{p.imagewidth} x {p.imagelength}" for p in candidates if id(p) not in used),
    )


def choose_series(tif: Any, kind: str, name: str) -> TiffLayout:
    """The largest series that tifffile finds, with its levels.

    Raises:
        SourceError: Several of like size, a stack or a time series, or planes that lie in other files.
    """
    sizes = [_series_area(series) for series in tif.series]
    index = sizes.index(max(sizes))
    rivals = [i for i, size in enumerate(sizes) if i != index and size >= _SIMILAR * sizes[index]]
    if rivals:
        raise SourceError(
            what=f"{name} holds {len(rivals) + 1} images of like size",
            why="which of them is meant would be a guess: " + ", ".join(str(tif.series[i].name) for i in [index, *rivals][:8]),
            mend="write the one that is meant as a file of its own",
        )
    series = tif.series[index]
    check_axes(series.axes, series.shape, name)
    return TiffLayout(
        kind={"ome": "OME-TIFF", "imagej": "ImageJ TIFF", "lsm": "LSM"}.get(kind, f"{kind} TIFF"),
        images=tuple(
            TiffImage(keyframe=level.keyframe, planes=tuple(level.pages)) for level in series.levels if _is_alike(level, series)
        ),
        series=series,
        index=index,
        others=tuple(f"{s.name} {_sides(s)}" for i, s in enumerate(tif.series) if i != index),
    )


def _is_alike(level: Any, series: Any) -> bool:
    """True when a level has the planes, samples and values of the full resolution."""
    one, first = level.keyframe, series.keyframe
    mine, own = (one.samplesperpixel, one.planarconfig, one.dtype), (first.samplesperpixel, first.planarconfig, first.dtype)
    return len(level.pages) == len(series.pages) and bool(mine == own)


def _is_reduction(page: Any, first: Any) -> bool:
    """True for a smaller image of the same place: tiled as the first is, of its samples, and of its shape."""
    if int(page.subfiletype) & _MASK or page.is_tiled != first.is_tiled or page.samplesperpixel != first.samplesperpixel:
        return False
    if page.dtype != first.dtype or page.photometric == 3:
        return False
    if not first.is_tiled and not int(page.subfiletype) & 1:
        return False
    rows, cols = _shape(first)
    height, width = _shape(page)
    return height < rows and width < cols and _fits(rows, cols, height, width)


def _fits(rows: int, cols: int, height: int, width: int) -> bool:
    """True when both sides were reduced by one factor, but for rounding."""
    return abs(rows * width / cols - height) <= _ROUNDING or abs(cols * height / rows - width) <= _ROUNDING


def _shape(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _sides(series: Any) -> str:
    lengths: Sequence[tuple[str, int]] = [pair for pair in zip(series.axes, series.shape, strict=True) if pair[0] in "XY"]
    return " x ".join(str(n) for _, n in reversed(lengths))


def _series_area(series: Any) -> int:
    area = 1
    for axis, n in zip(series.axes, series.shape, strict=True):
        area *= n if axis in "YX" else 1
    return area


def _stack(name: str, count: int) -> SourceError:
    return SourceError(
        what=f"{name} holds {count} pages of one size",
        why="nothing says whether they are channels, z-slices or time points",
        mend="write the one that is meant as a file of its own, or all as OME-TIFF with named axes",
    )
