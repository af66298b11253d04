"""Inputs: rasters and slides as windows of pixels, the stretch that makes them 8 bit, and every check that comes before.

What is listed here is loaded when first asked for: a process that only decodes slides needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggeo.io.geo import RasterSource, open_raster
    from seggeo.io.sources import TISSUE_RULES, AnySource, open_source, shows_brightfield
    from seggeo.io.stretch import Stretch, apply_stretch, fit_stretch
    from seggeo.io.stretch_words import stretch_asked
    from seggeo.io.volume import VolumeSource
    from seggeo.io.volume_detect import volume_kind

_HOMES = {
    "TISSUE_RULES": "sources", "AnySource": "sources", "RasterSource": "geo", "Stretch": "stretch", "apply_stretch": "stretch",
    "fit_stretch": "stretch", "open_raster": "geo", "open_source": "sources", "shows_brightfield": "sources",
    "VolumeSource": "volume", "stretch_asked": "stretch_words", "volume_kind": "volume_detect",
}  # fmt: skip

__all__ = [
    "TISSUE_RULES", "AnySource", "RasterSource", "Stretch", "VolumeSource", "apply_stretch", "fit_stretch", "open_raster",
    "open_source", "shows_brightfield", "stretch_asked", "volume_kind",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seggeo.io' has no attribute {name!r}")
    return getattr(import_module(f"seggeo.io.{_HOMES[name]}"), name)
