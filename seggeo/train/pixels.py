"""Pixels of training images: few files open, small images kept.

1. `read` cuts a window from an image that is kept whole, or from the file when it is large.
2. `_Kept` forgets the images used longest ago beyond `KEPT_BYTES`; `_Pool` closes the files used longest ago beyond
   `OPEN_FILES`, but none that a thread is reading.

Both belong to the process; a `View` is only the recipe, so it costs nothing to send to a worker.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io import RasterSource, Stretch, VolumeSource, apply_stretch, open_raster
from seggeo.io.volume import open_volume

OPEN_FILES = 4
"""Files held open; each keeps GDAL's state and, for odd layouts, a cache of 64 MB."""
SMALL_PX = 4 * 2**20
"""Images up to this many pixels are decoded whole and kept."""
KEPT_BYTES = 2**30
"""Memory of all images kept."""


Kept = tuple[NDArray[Any], NDArray[np.bool_]]
"""Image `(h, w, c)` and valid `(h, w)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How an image is read; equal views share pixels."""

    path: str
    reading: Reading
    all_bands: bool
    """True: every band but alpha; False: the three that an RGB model gets."""
    stretch: Stretch
    """What makes the values 8 bit: the whole image's, as in `seggeo segment`."""
    z: int | None = None
    """Which slice of a volume; None for an image of one plane."""


def read(view: View, size: tuple[int, int], window: Window, *, raw: bool) -> Kept:
    """`(image, valid)` of a window inside an image of `size` (rows, columns); not to be changed by the caller.

    Args:
        view: The image.
        size: Rows and columns of its work grid.
        window: Which pixels.
        raw: True: the file's own values; False: after the stretch, uint8.

    Raises:
        SourceError: The file is damaged there, or gone.
    """
    if size[0] * size[1] > SMALL_PX:
        return _decode(view, window, raw=raw)
    key = view, raw
    kept = _KEPT.get(key)
    if kept is None:
        image, valid = _decode(view, Window(row=0, col=0, height=size[0], width=size[1]), raw=raw)
        kept = np.ascontiguousarray(image), valid
        _KEPT.put(key, kept)
    rows, cols = window.slices()
    return kept[0][rows, cols], kept[1][rows, cols]


def _decode(view: View, window: Window, *, raw: bool) -> Kept:
    with _POOL.borrow(view) as source:
        pixels = source.read(window, view.z or 0)
    image = pixels.data if raw else apply_stretch(view.stretch, pixels)
    if raw and not pixels.valid.all():
        image = np.where(pixels.valid[..., None], pixels.data, pixels.data.dtype.type(0))
    return image, pixels.valid


class _Kept:
    """Whole images, the youngest `KEPT_BYTES` of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: OrderedDict[Any, Kept] = OrderedDict()
        self._held_bytes = 0

    def get(self, key: Any) -> Kept | None:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: Any, image: Kept) -> None:
        with self._lock:
            if key in self._images:
                return
            self._images[key] = image
            self._held_bytes += _bytes(image)
            while self._held_bytes > KEPT_BYTES and len(self._images) > 1:
                _, old = self._images.popitem(last=False)
                self._held_bytes -= _bytes(old)


@dataclass(slots=True)
class _Open:
    source: RasterSource | VolumeSource
    readers: int = 0


@dataclass(slots=True)
class _Pool:
    """Open files by recipe."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _files: OrderedDict[Any, _Open] = field(default_factory=OrderedDict)

    @contextmanager
    def borrow(self, view: View) -> Iterator[RasterSource | VolumeSource]:
        key = view.path, view.reading, view.all_bands  # all slices of a volume have one file
        with self._lock:
            if key not in self._files:
                self._files[key] = _Open(_source(view))
            entry = self._files[key]
            entry.readers += 1
            self._files.move_to_end(key)
            self._close_idle()
        try:
            yield entry.source
        finally:
            with self._lock:
                entry.readers -= 1

    def _close_idle(self) -> None:
        idle = [key for key, entry in self._files.items() if not entry.readers]
        for key in idle[: max(0, len(self._files) - OPEN_FILES)]:
            self._files.pop(key).source.close()


def _source(view: View) -> RasterSource | VolumeSource:
    if view.z is None:
        return open_raster(view.path, view.reading, native=view.all_bands)
    return open_volume(view.path, view.reading, native=view.all_bands)


def _bytes(image: Kept) -> int:
    return image[0].nbytes + image[1].nbytes


_KEPT = _Kept()
_POOL = _Pool()
