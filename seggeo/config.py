"""Settings of a job: frozen records, one field per option, checked when made.

A field's name is the option's long name with underscores and the TOML key; `cli/options.py` declares the options and
a test holds the three together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from seggeo import values as typed
from seggeo.errors import ConfigError

MAX_PIXELS = 4 * 10**12
STAIN_NORMS = ("none", "macenko")
AUTO = "auto"
"""The model that is chosen for the image, or for the weights."""


AXES = ("z", "y", "x", "axial", "coronal", "sagittal")
CT_WINDOWS = {"lung": (-600.0, 1500.0), "bone": (400.0, 1800.0), "soft": (40.0, 400.0)}
"""Centre and width, HU."""


def window_limits(window: str) -> tuple[float, float]:
    """Values that become 0 and 255 under a CT window.

    Args:
        window: A name of `CT_WINDOWS`, or `CENTRE,WIDTH`.

    Raises:
        ConfigError: It is neither.
    """
    try:
        centre, width = CT_WINDOWS.get(window) or map(float, window.split(","))
    except ValueError:
        centre, width = 0.0, 0.0
    if not 0 < width < float("inf") or not abs(centre) < float("inf"):
        raise ConfigError(
            what=f"window {window!r} is unknown", why=f"it is {', '.join(CT_WINDOWS)} or CENTRE,WIDTH in HU",
            mend="use --window soft or --window 40,400",
        )  # fmt: skip
    return centre - width / 2, centre + width / 2


def _check_length(name: str, value: float | None, unit: str, example: str) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(what=f"{name} {value} {unit}", why="it is a length", mend=f"use --{name} {example}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How an input is read; everything here changes what a model sees."""

    bands: tuple[int, ...] | None = None
    """1-based band numbers, repeats allowed; None chooses by colour interpretation."""
    gsd: float | None = None
    """Ground sample distance of the work grid in metres (CRS units where the CRS is not metric); None: the file's own."""
    nodata: float | None = None
    """Value that means no data, instead of the file's own."""
    aoi: Path | None = None
    """Vector file of polygons; pixels outside them are not data."""
    mpp: float | None = None
    """Micrometres per full-resolution pixel of a microscopy image, where the file does not say or is wrong."""
    work_mpp: float | None = None
    """Micrometres per pixel of the work grid of a slide; None: what the model prefers, else full resolution."""
    channel: tuple[str, ...] | None = None
    """Channels of a slide by name, or by number from 1; None: a stain of nuclei, else the first, for RGB models."""
    tissue: str = "none"
    """auto finds the tissue and reads nothing else; none reads everything; or a file: a mask image or GeoJSON."""
    stretch: str = "auto"
    """auto, none, minmax, percent:LOW,HIGH or LOW,HIGH in the file's own values."""
    stain_norm: str = "none"
    """macenko shows a brightfield slide's haematoxylin and eosin to the model as a reference slide has them; none does not."""
    axis: str | None = None
    """Axis that a volume is sliced along: z, y, x, or axial, coronal or sagittal where the file says how the patient lies;
    None: the one that weights have learnt, else z."""
    time: int | None = None
    """Which volume, from 1, of a file with several in time."""
    window: str | None = None
    """CT window of a volume: lung, bone, soft or CENTRE,WIDTH in Hounsfield units; instead of a stretch."""
    neighbours: int = 0
    """Slices before and after that a model sees beside its own, as further bands."""
    smooth: float | None = None
    """Sigma, px, of a Gaussian over the slices of a volume that RGB models see; None: as much as its noise wants."""
    spacing: tuple[float, ...] | None = None
    """Steps z, y, x between the voxels of a volume that does not say them or is wrong; micrometres where it says no unit."""
    series: str | None = None
    """Which DICOM series of a folder: its number, or the end of its UID."""
    allow_gaps: bool = False
    """Read a DICOM series with missing slices; they hold no data."""
    complex: str | None = None
    """What of complex numbers is read: abs or real; None refuses them."""
    allow_vrt: bool = False
    """Open VRT files, whose sources must lie in the VRT's own folder."""
    max_pixels: int = MAX_PIXELS
    """Refuse images that claim more pixels than this."""

    def __post_init__(self) -> None:
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(what=f"bands {self.bands} do not exist", why="bands count from 1", mend="use --bands 1,2,3")
        if self.gsd is not None and not 0 < self.gsd < float("inf"):
            raise ConfigError(
                what=f"a GSD of {self.gsd} m", why="it is the side of a pixel on the ground", mend="use --gsd 0.3"
            )
        if self.bands is not None and self.channel is not None:
            raise ConfigError(
                what=f"bands {','.join(map(str, self.bands))} and channels {','.join(self.channel)}",
                why="both choose what is read",
                mend="use one of --bands and --channel",
            )
        if self.stain_norm not in STAIN_NORMS:
            raise ConfigError(
                what=f"stain-norm {self.stain_norm!r} is unknown", why=f"known are {' and '.join(STAIN_NORMS)}",
                mend="use --stain-norm macenko",
            )  # fmt: skip
        if self.complex not in (None, "abs", "real"):
            raise ConfigError(
                what=f"complex {self.complex!r}", why="a model takes real numbers: magnitudes or real parts",
                mend="use --complex abs or --complex real",
            )  # fmt: skip
        _check_length("mpp", self.mpp, "um", "0.5")
        _check_length("work-mpp", self.work_mpp, "um", "0.5")
        self._check_volume()

    def _check_volume(self) -> None:
        if self.axis is not None and self.axis not in AXES:
            raise ConfigError(
                what=f"axis {self.axis!r} is unknown", why=f"a volume is sliced along one of {', '.join(AXES)}",
                mend="use --axis z",
            )  # fmt: skip
        if self.neighbours < 0 or (self.time is not None and self.time < 1):
            raise ConfigError(
                what=f"neighbours {self.neighbours}, time {self.time}", why="slices are counted from 0, times from 1",
                mend="use --neighbours 1, --time 1",
            )  # fmt: skip
        if self.smooth is not None and not 0 <= self.smooth <= 20:
            raise ConfigError(what=f"smooth {self.smooth} px", why="it lies between 0 and 20", mend="use --smooth 1")
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0 < v < float("inf") for v in self.spacing)):
            raise ConfigError(
                what=f"spacing {','.join(map(str, self.spacing))}", why="it is three lengths, in the order z, y, x",
                mend="use --spacing 2,0.5,0.5",
            )  # fmt: skip
        if self.window is not None and self.stretch != "auto":
            raise ConfigError(
                what=f"--window {self.window} and --stretch {self.stretch}", why="both say which values become 0 and 255",
                mend="use one of them",
            )  # fmt: skip
        if self.window is not None:
            window_limits(self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How the work grid is cut."""

    tile: int | None = None
    """Side of a window, px; None: what the model prefers, else 1024."""
    overlap: int | None = None
    """Pixels that two neighbouring windows share; even, at most half a tile; None: the model's, else an eighth of a tile."""

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 16:
            raise ConfigError(what=f"a tile of {self.tile} px", why="models need at least 16 px", mend="use --tile 1024")
        if self.overlap is not None and (self.overlap < 2 or self.overlap % 2):
            raise ConfigError(
                what=f"an overlap of {self.overlap} px",
                why="it must be even, and at least 2 px or touching objects are ambiguous",
                mend="use --overlap 128",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """When two readings are one object; changing these costs no new prediction."""

    match_iou: float = 0.3
    """Least IoU, inside the strip both windows saw, of two readings of one object."""
    min_area: int = 0
    """Smallest object that is written, px."""
    min_score: float = 0.0
    """Least score of an object that is written."""
    link: str = "iou"
    """Masks of neighbouring slices that are one object of a volume: iou links those that overlap most, none links nothing."""
    link_iou: float = 0.3
    """Least IoU of two linked masks, or three times that share of the smaller one."""
    link_gap: int = 2
    """Slices in which an object may be missed."""
    link_neck: float = 0.6
    """Where an object narrows to less than this share of its areas on both sides it is two; 0 never parts it."""

    def __post_init__(self) -> None:
        if self.link not in ("iou", "none") or self.link_gap < 0:
            raise ConfigError(
                what=f"link {self.link!r}, link-gap {self.link_gap}", why="links are iou or none, over 0 or more missed slices",
                mend="use --link iou --link-gap 2",
            )  # fmt: skip
        if not 0 < self.link_iou < 1 or not 0 <= self.link_neck < 1:
            raise ConfigError(
                what=f"link-iou {self.link_iou}, link-neck {self.link_neck}", why="both are shares between 0 and 1",
                mend="use --link-iou 0.3 --link-neck 0.6",
            )  # fmt: skip
        if not 0 < self.match_iou < 1:
            raise ConfigError(what=f"match-iou {self.match_iou}", why="an IoU lies between 0 and 1", mend="use --match-iou 0.3")
        if self.min_area < 0:
            raise ConfigError(what=f"min-area {self.min_area} px", why="an area is not negative", mend="use --min-area 20")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(
                what=f"min-score {self.min_score}", why="a score lies between 0 and 1", mend="use --min-score 0.5"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is written, and where from."""

    format: tuple[str, ...] = ("auto",)
    """Sinks by name; auto is gpkg, and for a volume masks, volume (labels in the format of the input) and objects."""
    simplify: float = 0.0
    """Tolerance of polygon simplification, metres on the ground whatever the CRS; 0 keeps pixel edges."""
    preview: bool = True
    """Draw a PNG beside the result."""
    regions: Path | None = None
    """GeoJSON of areas on a slide, as QuPath exports it: tables say which one each cell lies in."""
    positive: str | None = None
    """Which cells count as positive: `dab>0.25`, a stain or channel and what its mean must exceed."""

    def __post_init__(self) -> None:
        if not self.format:
            raise ConfigError(what="no output format", why="a run without output is lost work", mend="use -f gpkg")
        if not 0 <= self.simplify < float("inf"):
            raise ConfigError(
                what=f"simplify {self.simplify} m", why="a tolerance is a length, 0 or more", mend="use --simplify 0.5m"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that defines a job's result."""

    model: str = AUTO
    """A segmenter, bundled weights, `file.py:Class`, or auto: chosen for the kind of image, or for the weights."""
    weights: Path | None = None
    """A file, or the name of bundled or fetched weights."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Model settings by name, JSON values."""
    diameter: float | None = None
    """Typical diameter of an object, px of the work grid; becomes a setting of models that take it."""
    reading: Reading = field(default_factory=Reading)
    tiling: Tiling = field(default_factory=Tiling)
    merge: Merge = field(default_factory=Merge)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        _check_length("diameter", self.diameter, "px", "30")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a job is run; only `autocast` and `compile`, which change predictions, are part of the job."""

    workers: int = 0
    """Processes that predict; 0 chooses by device, cores and memory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    devices: str | None = None
    """GPUs to predict on, a process on each: all, or their numbers, 0,1."""
    batch: int = 0
    """Tiles, or prompts, per forward pass; 0 lets the model choose."""
    autocast: bool = False
    """bfloat16 where the model allows it: faster on an accelerator, results are approximate."""
    compile: bool = False
    """Compile the model's network for its input's shape: the first tiles take longer, results are equal up to rounding."""
    work: Path | None = None
    """Run folder; default: beside the output."""
    overwrite: bool = False
    """Replace outputs, and a run folder, of another job."""
    allow_partial: bool = False
    """Finish with exit code 0 although tiles failed."""
    require_crs: bool = False
    """Refuse an input without a coordinate system, whose objects would be in pixels."""
    check_space: bool = True
    """Refuse to begin where the disks have less room than the results will take, by a rough estimate."""
    cpu_fallback: bool = False
    """Predict on the CPU where the accelerator is absent, and tiles that do not fit its memory."""
    on_bad_tile: str = "skip"
    """What a tile that fails twice does: skip notes it and goes on, fail stops the run."""
    profile: bool = False
    """Count where the time goes, and tell."""
    dask: str | None = None
    """Dask workers that predict instead of processes of this one: `tcp://host:port`, `local:4`, `slurm` or `slurm:8`."""

    def __post_init__(self) -> None:
        if self.work is not None:  # callers from Python may name it by a string
            object.__setattr__(self, "work", Path(self.work))
        if self.workers < 0 or self.batch < 0:
            raise ConfigError(
                what=f"workers {self.workers}, batch {self.batch}", why="counts are not negative", mend="use 0 for automatic"
            )
        if self.on_bad_tile not in ("skip", "fail"):
            raise ConfigError(
                what=f"on-bad-tile {self.on_bad_tile!r}", why="a bad tile is skipped or stops the run",
                mend="use --on-bad-tile skip or fail",
            )  # fmt: skip
        if self.dask is not None and not re.fullmatch(r"local:[1-9]\d*|slurm(:[1-9]\d*)?|(tcp|tls)://\S+:\d+", self.dask):
            raise ConfigError(
                what=f"--dask {self.dask}", why="it is the address of a Dask scheduler, or says how many workers to start",
                mend="use --dask tcp://host:8786, local:4, slurm or slurm:8",
            )  # fmt: skip
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(
                what=f"there is no device called {self.device!r}",
                why="known are auto, cpu, cuda, cuda:N and mps",
                mend="use --device auto",
            )
        if self.devices is not None:
            self._check_devices(self.devices)

    def _check_devices(self, devices: str) -> None:
        if not re.fullmatch(r"all|\d+(,\d+)*", devices):
            raise ConfigError(what=f"--devices {devices}", why="GPUs have numbers", mend="use --devices all, or --devices 0,1")
        if self.device not in ("auto", "cuda") or self.dask is not None:
            raise ConfigError(
                what=f"--devices {devices} beside --d{'ask' if self.dask else 'evice'}", why="both say where to predict",
                mend="use one of them",
            )  # fmt: skip


def to_json(record: Any) -> Any:
    """Plain JSON values of nested settings."""
    if hasattr(record, "__dataclass_fields__"):
        return {f.name: to_json(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Path):
        return str(record)
    if isinstance(record, Mapping):
        return {str(k): to_json(v) for k, v in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_json(v) for v in record]
    if isinstance(record, float) and not isfinite(record):
        return str(record)  # JSON has no NaN, which besides is not equal to itself
    return record


def field_names(record: type) -> tuple[str, ...]:
    """Names of a settings record's own values, nested records left out."""
    return tuple(f.name for f in fields(record) if f.name not in _NESTED)


_NESTED = {"reading": Reading, "tiling": Tiling, "merge": Merge, "output": Output}


def converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name as their fields want them, whether texts of a command line or what a caller wrote in Python.

    Raises:
        ConfigError: A value that means nothing in its field.
    """
    return typed.converted(values, (*_NESTED.values(), Settings, Execution))


def settings_from(values: Mapping[str, Any]) -> tuple[Settings, Execution]:
    """Records made of flat values by field name, converted; absent names keep their defaults.

    Raises:
        ConfigError: A name no record has, or a value a record refuses.
    """
    records = {**_NESTED, "settings": Settings, "execution": Execution}
    known = {name: key for key, record in records.items() for name in field_names(record)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            what=f"unknown setting {', '.join(unknown)}", why=f"known: {', '.join(sorted(known))}", mend="correct the spelling"
        )
    chosen: dict[str, dict[str, Any]] = {key: {} for key in records}
    for name, value in converted(values).items():
        chosen[known[name]][name] = value
    nested = {key: record(**chosen[key]) for key, record in _NESTED.items()}
    return Settings(**nested, **chosen["settings"]), Execution(**chosen["execution"])
