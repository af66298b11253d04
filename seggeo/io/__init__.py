"""Inputs: rasters and slides as windows of pixels, the stretch that makes them 8 bit, and every check that comes before."""

from seggeo.io.geo import RasterSource, open_raster
from seggeo.io.sources import TISSUE_RULES, AnySource, open_source, shows_brightfield
from seggeo.io.stretch import Stretch, apply_stretch, fit_stretch

__all__ = [
    "TISSUE_RULES", "AnySource", "RasterSource", "Stretch", "apply_stretch", "fit_stretch", "open_raster", "open_source",
    "shows_brightfield",
]  # fmt: skip
