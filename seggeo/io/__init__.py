"""Inputs: rasters as windows of pixels, the stretch that makes them 8 bit, and every check that comes before."""

from seggeo.io.geo import RasterSource, open_raster
from seggeo.io.stretch import Stretch, apply_stretch, fit_stretch

__all__ = ["RasterSource", "Stretch", "apply_stretch", "fit_stretch", "open_raster"]
