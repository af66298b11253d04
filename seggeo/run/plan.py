"""Freeze a job: open the input, choose the model, settle its settings, fit the stretch, lay the grid. No pixel is predicted."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import seggeo.io as image_io
from seggeo.config import Execution, Output, Reading, Settings, Tiling, to_json
from seggeo.errors import ConfigError, ModelError, SeggeoWarning, SourceError
from seggeo.geometry import Window
from seggeo.job import Job
from seggeo.models.preferences import preferred
from seggeo.protocols import ModelInfo, ModelRequest, Pixels, Segmenter
from seggeo.run.choice import Chosen, model_for, named_model, request_for
from seggeo.run.look import OVERVIEW_PX, SceneLook
from seggeo.run.notices import faster_notices, place_notice
from seggeo.run.part import check_unchanged
from seggeo.run.segmenters import factory_of, open_segmenter
from seggeo.run.stains import check_model, normalising_stretch

_SPARE = 0.25
"""A window may be larger by about this share of itself, if that saves one."""
_BLOCK = 16
"""Tiles along the side of a square that is looked at as a whole, since a million looks take long."""
_LONGEST_NAME = 160
"""Bytes of an input's name in the names of its outputs; file systems allow 255 with what is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A frozen job and what was learnt on the way."""

    job: Job
    request: ModelRequest
    settings: Settings
    segmenter: Segmenter | None
    """Open already; None for a plan that was read back."""
    overview: Pixels
    """The whole image decimated, in the bands that are shown: `(h, w, 3)`."""
    shown: Any
    """The stretch of the overview, for previews."""
    source: Mapping[str, Any]
    """What the input is, JSON values."""

    @property
    def info(self) -> ModelInfo:
        """Of the open segmenter."""
        assert self.segmenter is not None  # noqa: S101 - only who has made the plan asks
        return self.segmenter.info

    @property
    def is_native(self) -> bool:
        """True when the model takes the file's own bands and values."""
        return bool(self.job.model["native"])


def make_plan(path: str, settings: Settings, execution: Execution) -> Plan:
    """The job for one input.

    Raises:
        SourceError: The input cannot be read or is refused.
        ModelError: The model or its weights are refused.
        ConfigError: Settings that do not fit the input or the model.
    """
    chosen, asked = named_model(settings), settings.reading
    with ExitStack() as opened:
        scene = _Scene(path, settings, opened)
        chosen = chosen or scene.model()
        reading = preferred(settings.reading, chosen.weights, scene.frame, is_brightfield=scene.is_brightfield)
        if reading != settings.reading:
            settings = replace(settings, reading=reading)
            scene = scene.read_as(settings)
        if reading.smooth is None and (noise := scene.noise):  # of the slices that are read, which weights may choose
            reading = replace(reading, smooth=noise)
            settings = replace(settings, reading=reading)
            scene = _Scene(path, settings, opened)
        if reading.stain_norm != "none":
            scene.normalise_stains()  # after the choice of a model, which goes by what the file shows
        request, segmenter = _ready(request_for(chosen, settings, execution, scene.mpp), scene)
        info = segmenter.info
        for notice in faster_notices(info, request):
            warnings.warn(SeggeoWarning(notice), stacklevel=2)
        if info.native and settings.reading.smooth:
            settings = replace(settings, reading=_unsmoothed(settings.reading, asked, info))
        source = scene.source(native=info.native)
        tile, overlap = tile_and_overlap(settings.tiling, info)
        if settings.tiling.tile is None and info.context:
            tile = fitted(tile, overlap, source.frame.window.shape)
        if source.frame.crs is None and execution.require_crs:
            raise SourceError(
                what=f"{public_name(path)} has no CRS", why="--require-crs refuses what does not say where on Earth it lies",
                mend="give it one: gdal_edit.py -a_srs EPSG:CODE FILE, or leave --require-crs out",
            )  # fmt: skip
        if (place := place_notice(source.frame)) is not None:
            warnings.warn(SeggeoWarning(f"{public_name(path)} {place}"), stacklevel=2)
        job = Job(
            source={"path": public_name(path), **source.fingerprint()},
            reading={**to_json(settings.reading), "bands": list(source.bands), **_digests(settings)},
            frame=source.frame, tile=tile, overlap=overlap,
            stretch=None if info.native else scene.stretch.to_json(),
            model=describe_model(info, request, execution), merge=to_json(settings.merge), choice=chosen.choice,
        )  # fmt: skip
        return Plan(
            job=job, request=request, settings=settings, segmenter=segmenter, overview=scene.overview, shown=scene.stretch,
            source=source.describe(),
        )  # fmt: skip


def _unsmoothed(reading: Reading, asked: Reading, info: ModelInfo) -> Reading:
    """How a volume is read for a model that takes its own values, which are never smoothed."""
    if asked.smooth:
        raise ConfigError(
            what=f"--smooth {asked.smooth:g} for {info.name}", why="it takes the file's own values, and those are left alone",
            mend="leave it out, or smooth in the model",
        )  # fmt: skip
    return replace(reading, smooth=0.0)


def reopened(path: str, settings: Settings, request: ModelRequest, job: Job) -> Plan:
    """The plan of a job that was made before: nothing is chosen anew and no model is opened.

    Raises:
        SourceError: The input cannot be read, or has changed.
    """
    with ExitStack() as opened:
        scene = _Scene(path, settings, opened)
        source = scene.source(native=bool(job.model["native"]))
        check_unchanged(source, job)
        shown = scene.stretch if job.stretch is None else image_io.Stretch.from_json(job.stretch)
        return Plan(
            job=job, request=request, settings=settings, segmenter=None, overview=scene.overview, shown=shown,
            source=source.describe(),
        )  # fmt: skip


class _Scene:
    """The open input: as RGB where its bands make that, native where it is asked for; files close with `opened`."""

    def __init__(self, path: str, settings: Settings, opened: ExitStack) -> None:
        self._path, self._settings, self._opened = path, settings, opened
        shown = None
        with suppress(ConfigError):  # models that take native bands do not need RGB
            shown = self._open(native=False)
        self.is_rgb = shown is not None
        self._sources = {False: shown} if shown is not None else {}
        source = self.source(native=not self.is_rgb)
        self.frame = source.frame
        self.overview = source.overview(OVERVIEW_PX)
        """In the bands that are shown."""
        self.stretch = self._fitted()
        self.is_brightfield = self.frame.unit == "um" and self.is_rgb and image_io.shows_brightfield(source, self.overview)

    def read_as(self, settings: Settings) -> _Scene:
        """The scene with other settings; where an image's stretch alone is another, nothing is read again."""
        is_same = replace(settings.reading, stretch=self._settings.reading.stretch) == self._settings.reading
        if not is_same or self.frame.depth > 1:
            return _Scene(self._path, settings, self._opened)
        self._settings = settings
        self.stretch = self._fitted()
        return self

    def _fitted(self) -> image_io.Stretch:
        asked = image_io.stretch_asked(self._settings.reading, self.overview, self.frame)
        return image_io.fit_stretch(self.overview, asked)

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of a slide of stained tissue; cells in fluorescence have any size, and tell it themselves."""
        return sqrt(self.frame.spacing[1] * self.frame.spacing[2]) if self.is_brightfield else None

    @property
    def noise(self) -> float:
        """Sigma of the Gaussian that a volume's noise wants; 0 for images, and for volumes that are not shown as RGB."""
        source = self._sources.get(False)
        return source.noise_smoothing() if isinstance(source, image_io.VolumeSource) else 0.0

    def model(self) -> Chosen:
        """What `auto` takes."""
        if self.frame.placement is not None and self.frame.placement.space:
            from seggeo.models.auto import FALLBACK

            why = "it is a medical volume, which no bundled weights have learnt"
            return Chosen(name=FALLBACK, weights=None, choice={"model": FALLBACK, "kind": "medical", "why": why})
        return model_for(self.look(native=False) if self.is_rgb else None, self.overview)

    def _open(self, *, native: bool) -> image_io.AnySource:
        source = image_io.open_source(self._path, self._settings.reading, native=native)
        self._opened.callback(source.close)
        return source

    def source(self, *, native: bool) -> image_io.AnySource:
        """The open file; as RGB it says why it has none where that is so."""
        if native not in self._sources:
            self._sources[native] = self._open(native=native)
        return self._sources[native]

    def normalise_stains(self) -> None:
        """Let the stretch show the image's stains as those of the reference."""
        self.stretch = normalising_stretch(
            self._path, self._settings.reading, self.source(native=False), self.overview, name=public_name(self._path)
        )  # fmt: skip

    def look(self, *, native: bool) -> SceneLook:
        """A look at the image as a model sees it."""
        if native:
            return SceneLook(self.source(native=True), None)
        return SceneLook(self.source(native=False), self.stretch, self.overview)


def _ready(request: ModelRequest, scene: _Scene) -> tuple[ModelRequest, Segmenter]:
    """The segmenter, and its request with the settings that it finds in the whole image, once for the job."""
    segmenter = open_segmenter(request)
    if scene.stretch.stains is not None:
        check_model(segmenter.info)
    _check(scene.source(native=segmenter.info.native).bands, segmenter.info, request)
    calibrate = getattr(factory_of(request), "calibrate", None)
    if calibrate is None:
        return request, segmenter
    found = {**request.settings, **calibrate(request, scene.look(native=segmenter.info.native))}
    if found == dict(request.settings):
        return request, segmenter
    request = replace(request, settings=found)
    return request, open_segmenter(request)


def _check(bands: tuple[str, ...], info: ModelInfo, request: ModelRequest) -> None:
    """Refuse bands that do not fit the model, and weights for one that takes none."""
    if info.native and info.channels is not None and info.channels != len(bands):
        raise ConfigError(
            what=f"{info.name} takes {info.channels} bands and the input gives {len(bands)}: {', '.join(bands)}",
            why="the model's first layer has that many channels",
            mend=f"choose them with --bands {','.join(str(i + 1) for i in range(info.channels))}",
        )
    if request.weights is not None and info.weights_sha256 is None:
        raise ConfigError(
            what=f"--weights {request.weights} has no meaning for {info.name}",
            why="that model learns nothing and takes no weights",
            mend="leave it out, or choose --model maskrcnn or sam",
        )


def _digests(settings: Settings) -> dict[str, str | None]:
    """What stands in the job for files that say what is data: digests of the AOI and of a tissue mask."""
    tissue = settings.reading.tissue
    return {
        "aoi": _digest_of(settings.reading.aoi),
        "tissue": tissue if tissue in image_io.TISSUE_RULES else _digest_of(Path(tissue)),
    }


def output_identity(output: Output) -> dict[str, Any]:
    """What decides the bytes of the outputs, JSON values: the settings, with a digest in place of the regions' file."""
    return {**to_json(output), "regions": _digest_of(output.regions)}


def _digest_of(path: Path | None) -> str | None:
    """Digest over a file, or all files of a shapefile, whose CRS is a file of its own."""
    if path is None:
        return None
    files = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")) if path.suffix.lower() == ".shp" else [path]
    digest = hashlib.sha256()
    for each in files:
        digest.update(each.read_bytes())
    return digest.hexdigest()


def tile_and_overlap(tiling: Tiling, info: ModelInfo) -> tuple[int, int]:
    """The window's side and the overlap: the user's, else the model's, else 1024 px and an eighth.

    Raises:
        ConfigError: The overlap is more than half the tile.
        ModelError: The model asks for what no user may.
    """
    try:
        Tiling(tile=info.tile, overlap=info.overlap // 2 * 2 if info.overlap else None)
    except ConfigError as error:
        raise ModelError(
            what=f"{info.name} asks for tile = {info.tile}, overlap = {info.overlap}", why=f"{error.what}: {error.why}",
            mend=f"change the attributes tile and overlap of {info.name}, for instance to tile = 512, overlap = 64",
        ) from error  # fmt: skip
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


def fitted(tile: int, overlap: int, shape: tuple[int, int]) -> int:
    """A window's side near `tile` with which windows fill an image of `shape` (rows, columns) without much to spare.

    For models whose answer does not depend on the window: the last of a row of windows is moved inwards, and what it then
    shares with the one before is predicted twice.
    """
    sides = []
    for length in shape:
        count = max(1, ceil((length - overlap) / (tile - overlap) - _SPARE))
        sides.append(-(-(length + (count - 1) * overlap) // count))
    return max(16, 2 * overlap, *sides)


def describe_model(info: ModelInfo, request: ModelRequest, execution: Execution) -> dict[str, Any]:
    """What the job records of a model: everything that changes predictions, and what the merge needs."""
    return {
        "name": info.name, "settings": to_json(info.settings), "weights_sha256": info.weights_sha256,
        "classes": list(info.classes), "exclusive": info.exclusive, "native": info.native,
        "autocast": execution.autocast, "compile": execution.compile,
    }  # fmt: skip


def count_empty(plan: Plan, path: str) -> int:
    """Tiles that need no decoding to be known as empty (sparse blocks, outside the area of interest)."""
    grid = plan.job.grid
    rows = [grid.row_window(i) for i in range(grid.rows)]
    cols = [grid.col_window(i) for i in range(grid.cols)]

    def empty(z: int, some_rows: list[tuple[int, int]], some_cols: list[tuple[int, int]]) -> int:
        whole = Window.from_bounds(some_rows[0][0], some_cols[0][0], some_rows[-1][1], some_cols[-1][1])
        if source.is_empty(whole, z):
            return len(some_rows) * len(some_cols)
        if len(some_rows) == len(some_cols) == 1:
            return 0
        return sum(empty(z, [row], [col]) for row in some_rows for col in some_cols)

    with image_io.open_source(path, plan.settings.reading, native=plan.is_native) as source:
        return sum(
            empty(z, rows[i : i + _BLOCK], cols[j : j + _BLOCK])
            for z in range(grid.depth)
            for i in range(0, len(rows), _BLOCK)
            for j in range(0, len(cols), _BLOCK)
        )


def estimate(plan: Plan) -> dict[str, int]:
    """Memory of one predicting process and room on disk, bytes, rough."""
    job, info = plan.job, plan.info
    bands = max(3, len(job.reading["bands"]))
    side = job.tile + 2 * (info.context + info.stride - 1)
    decoded = 4 * side * side * bands * 2
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
    if path.lower().endswith(".nii.gz") or stem.lower().endswith(".ome"):  # endings of two parts: a.nii.gz, a.ome.tif
        stem = Path(stem).stem
    name = os.fsencode(stem)
    if len(name) <= _LONGEST_NAME:
        return stem
    return f"{name[:_LONGEST_NAME].decode(errors='ignore')}_{hashlib.sha256(name).hexdigest()[:8]}"
