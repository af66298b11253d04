"""Freeze a job: open the input, settle the model's settings, fit the stretch, lay the grid. No pixel is predicted."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import seggeo.io as image_io
from seggeo.config import Execution, Settings, Tiling, to_json
from seggeo.errors import ConfigError, SeggeoWarning
from seggeo.geometry import Window
from seggeo.job import Job
from seggeo.models.registry import resolve_weights
from seggeo.protocols import ModelInfo, ModelRequest, Pixels, Segmenter, TileImage
from seggeo.run.segmenters import factory_of, is_custom, open_segmenter
from seggeo.tiling import Tile

OVERVIEW_PX = 2048
"""Longest side of the overview that stretch, calibration and preview look at."""
_LONGEST_NAME = 160
"""Bytes of an input's name in the names of its outputs; file systems allow 255 with what is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A frozen job and what was learnt on the way."""

    job: Job
    request: ModelRequest
    settings: Settings
    segmenter: Segmenter
    overview: Pixels
    """The whole image decimated, in the bands that are shown: `(h, w, 3)`."""
    shown: Any
    """The stretch of the overview, for previews."""
    source: Mapping[str, Any]
    """What the input is, JSON values."""


def make_plan(path: str, settings: Settings, execution: Execution) -> Plan:
    """The job for one input.

    Raises:
        SourceError: The input cannot be read or is refused.
        ModelError: The model or its weights are refused.
        ConfigError: Settings that do not fit the input or the model.
    """
    weights = resolve_weights(str(settings.weights) if settings.weights else None, settings.model)
    request = ModelRequest(
        name=absolute_spec(settings.model), weights=weights, settings=dict(settings.set), device=execution.device,
        batch=execution.batch, autocast=execution.autocast,
    )  # fmt: skip
    shown = _open_rgb(path, settings)
    source = shown or image_io.open_raster(path, settings.reading, native=True)
    opened = [source]
    try:
        overview = source.overview(OVERVIEW_PX)
        stretch = image_io.fit_stretch(overview, settings.reading.stretch)
        request = calibrated(request, overview, stretch)
        segmenter = open_segmenter(request)
        info = segmenter.info
        if info.native:
            source = image_io.open_raster(path, settings.reading, native=True)
            opened.append(source)
            _check_bands(source.bands, info)
        elif shown is None:
            image_io.open_raster(path, settings.reading, native=False)  # says why it has no RGB
        if weights is not None and info.weights_sha256 is None:
            raise ConfigError(
                what=f"--weights {weights} has no meaning for {info.name}",
                why="that model learns nothing and takes no weights",
                mend="leave it out, or choose --model maskrcnn or sam",
            )
        tile, overlap = tile_and_overlap(settings.tiling, info)
        if source.frame.crs is None:
            warnings.warn(SeggeoWarning(f"{public_name(path)} has no CRS: coordinates and areas are in pixels"), stacklevel=2)
        job = Job(
            source={"path": public_name(path), **source.fingerprint()},
            reading={**to_json(settings.reading), "bands": list(source.bands), "aoi": _aoi_digest(settings)},
            frame=source.frame, tile=tile, overlap=overlap,
            stretch=None if info.native else stretch.to_json(),
            model=describe_model(info, request, execution), merge=to_json(settings.merge),
        )  # fmt: skip
        return Plan(
            job=job, request=request, settings=settings, segmenter=segmenter, overview=overview, shown=stretch,
            source=source.describe(),
        )  # fmt: skip
    finally:
        for each in opened:
            each.close()


def _open_rgb(path: str, settings: Settings) -> image_io.RasterSource | None:
    """The input as RGB; None when its bands make none, which models that take native bands do not need."""
    try:
        return image_io.open_raster(path, settings.reading, native=False)
    except ConfigError:
        return None


def _check_bands(bands: tuple[str, ...], info: ModelInfo) -> None:
    if info.channels is not None and info.channels != len(bands):
        raise ConfigError(
            what=f"{info.name} takes {info.channels} bands and the input gives {len(bands)}: {', '.join(bands)}",
            why="the model's first layer has that many channels",
            mend=f"choose them with --bands {','.join(str(i + 1) for i in range(info.channels))}",
        )


def absolute_spec(name: str) -> str:
    """A model's name; the path of a model of the user's own made absolute, for processes that start elsewhere."""
    if not is_custom(name):
        return name
    path, colon, attribute = name.rpartition(":") if ".py:" in name else (name, "", "")
    return f"{Path(path).absolute()}{colon}{attribute}"


def _aoi_digest(settings: Settings) -> str | None:
    """Digest over an AOI's file, or all files of a shapefile, whose CRS is a file of its own."""
    aoi = settings.reading.aoi
    if aoi is None:
        return None
    files = sorted(aoi.parent.glob(f"{glob.escape(aoi.stem)}.*")) if aoi.suffix.lower() == ".shp" else [aoi]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def calibrated(request: ModelRequest, overview: Pixels, stretch: Any) -> ModelRequest:
    """The request with the settings that the model finds in the whole image, once for the job."""
    factory = None if is_custom(request.name) else factory_of(request)
    calibrate = getattr(factory, "calibrate", None)
    if calibrate is None:
        return request
    height, width = overview.valid.shape
    window = Window(row=0, col=0, height=height, width=width)
    sample = TileImage(
        image=image_io.apply_stretch(stretch, overview), valid=overview.valid,
        tile=Tile(index=0, z=0, row=0, col=0, core=window, window=window),
    )  # fmt: skip
    return replace(request, settings={**request.settings, **calibrate(request, sample)})


def tile_and_overlap(tiling: Tiling, info: ModelInfo) -> tuple[int, int]:
    """The window's side and the overlap: the user's, else the model's, else 1024 px and an eighth.

    Raises:
        ConfigError: The overlap is more than half the tile.
    """
    tile = tiling.tile or info.tile or 1024
    own = info.overlap if info.overlap and 2 * info.overlap <= tile else tile // 8
    overlap = tiling.overlap or max(2, own // 2 * 2)
    if 2 * overlap > tile:
        raise ConfigError(
            what=f"an overlap of {overlap} px with tiles of {tile} px",
            why="every pixel would be predicted more than four times",
            mend=f"use --overlap {tile // 2 // 2 * 2} or less",
        )
    return tile, overlap


def describe_model(info: ModelInfo, request: ModelRequest, execution: Execution) -> dict[str, Any]:
    """What the job records of a model: everything that changes predictions, and what the merge needs."""
    return {
        "name": info.name, "settings": to_json(info.settings), "weights_sha256": info.weights_sha256,
        "classes": list(info.classes), "exclusive": info.exclusive, "native": info.native,
        "autocast": execution.autocast,
    }  # fmt: skip


def count_empty(plan: Plan, path: str) -> int:
    """Tiles that need no decoding to be known as empty (sparse blocks, outside the area of interest)."""
    source = image_io.open_raster(path, plan.settings.reading, native=plan.segmenter.info.native)
    try:
        return sum(source.is_empty(tile.window) for tile in plan.job.grid)
    finally:
        source.close()


def estimate(plan: Plan) -> dict[str, int]:
    """Memory of one predicting process and room on disk, bytes, rough."""
    job, info = plan.job, plan.segmenter.info
    bands = max(3, len(job.reading["bands"]))
    decoded = 4 * job.tile * job.tile * bands * 2
    valid_share = float(np.mean(plan.overview.valid)) if plan.overview.valid.size else 1.0
    megapixels = job.frame.height * job.frame.width * job.frame.depth * valid_share / 1e6
    return {
        "memory_bytes": int(400e6 + 256e6 + decoded + info.memory_bytes),
        "disk_bytes": int(1e6 + 2e6 * megapixels * 0.2),
    }  # fmt: skip


def overview_image(plan: Plan) -> Any:
    """The stretched overview, `(h, w, 3)` uint8."""
    return image_io.apply_stretch(plan.shown, plan.overview)


def public_name(path: str) -> str:
    """An input as it may be shown and recorded: an address without credentials and query."""
    if "://" not in path:
        return path
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def input_name(path: str) -> str:
    """Stem of an input's file name; a long one is cut and told apart by a digest, so that outputs named after it fit."""
    stem = Path(path.split("?")[0].rstrip("/") if "://" in path else path).stem or "image"
    name = os.fsencode(stem)
    if len(name) <= _LONGEST_NAME:
        return stem
    return f"{name[:_LONGEST_NAME].decode(errors='ignore')}_{hashlib.sha256(name).hexdigest()[:8]}"
