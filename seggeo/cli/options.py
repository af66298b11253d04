"""Every option of the command line, declared once, and the order of power among its sources.

An option's long name, its field in `seggeo.config` and its TOML key are one name (hyphens for underscores). Parameters
default to None, "not given"; the defaults live in the records. Option > SEGGEO_* variable > --config file > default.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.config import Execution, Merge, Output, Reading, Settings, Tiling, converted
from seggeo.errors import ConfigError
from seggeo.run.naming import target_of
from seggeo.values import pairs, refused

INPUT, MODEL, TILES, OBJECTS, WRITING, RUNNING = "Reading", "Model", "Tiles", "Objects", "Writing", "Running"
VOLUMES = "Volumes"


def _option(name: str, default: str, help_: str, panel: str, short: tuple[str, ...] = ()) -> Any:
    return typer.Option(
        f"--{name}", *short, envvar=f"SEGGEO_{name.upper().replace('-', '_')}", show_default=default or False, help=help_,
        rich_help_panel=panel,
    )  # fmt: skip


def _flag(name: str, help_: str, panel: str) -> Any:
    return typer.Option(
        f"--{name}/--no-{name}", envvar=f"SEGGEO_{name.upper().replace('-', '_')}", show_default=False, help=help_,
        rich_help_panel=panel,
    )  # fmt: skip


Model = Annotated[
    str | None,
    _option("model", "auto", "Model or bundled weights by name, my_model.py:MyModel, or auto: what fits the image.", MODEL),
]
Weights = Annotated[
    str | None, _option("weights", "", "Weights file (.safetensors or .pth), or a name from `seggeo models list`.", MODEL)
]
Diameter = Annotated[
    float | None, _option("diameter", "estimated", "Typical diameter of an object, px, for models that take it.", MODEL)
]
Mpp = Annotated[
    float | None, _option("mpp", "unknown", "Micrometres per pixel of a microscopy image that does not say it.", INPUT)
]
WorkMpp = Annotated[
    float | None, _option("work-mpp", "the model's", "Micrometres per pixel to work at on a slide of known resolution.", INPUT)
]
Channel = Annotated[
    str | None,
    _option("channel", "of nuclei, else the first", "Channels of a slide or volume by name or number: DAPI,2.", INPUT),
]
Tissue = Annotated[
    str | None, _option("tissue", "none", "Read tissue alone: auto, none, or a mask image or GeoJSON of it.", INPUT)
]
Regions = Annotated[
    Path | None, _option("regions", "", "GeoJSON of areas, as QuPath exports it; tables say which one a cell lies in.", WRITING)
]
Positive = Annotated[
    str | None, _option("positive", "", "Which cells are positive: dab>0.25, a stain's OD or a channel's mean.", WRITING)
]
Set = Annotated[list[str] | None, _option("set", "", "A setting of the model, key=value; repeat for more.", MODEL)]
Nested = Annotated[str | None, _option("nested", "all", "Masks inside masks (sam): all, whole, part or flat.", MODEL)]
Bands = Annotated[str | None, _option("bands", "by colour", "Bands to read, counted from 1: 3,2,1.", INPUT)]
Gsd = Annotated[float | None, _option("gsd", "the file's own", "Ground sample distance to work at, metres.", INPUT)]
Nodata = Annotated[float | None, _option("nodata", "the file's own", "Value that means no data.", INPUT)]
Aoi = Annotated[Path | None, _option("aoi", "", "Polygons (any vector file, any CRS) outside which nothing is data.", INPUT)]
Stretch = Annotated[
    str | None,
    _option("stretch", "auto", "To 8 bits, one for the whole image: auto, none, minmax, percent:2,98 or LOW,HIGH.", INPUT),
]
StainNorm = Annotated[
    str | None,
    _option("stain-norm", "none", "Show H&E to the model in a reference's colours, by stains of the slide: macenko.", INPUT),
]
Axis = Annotated[str | None, _option("axis", "z", "Slice a volume along z, y, x, axial, coronal or sagittal.", VOLUMES)]
Time = Annotated[int | None, _option("time", "", "Which volume of several in time, from 1.", VOLUMES)]
CtWindow = Annotated[
    str | None, _option("window", "", "CT window instead of a stretch: lung, bone, soft or CENTRE,WIDTH in HU.", VOLUMES)
]
Neighbours = Annotated[
    int | None, _option("neighbours", "0", "Slices before and after that the model sees beside each.", VOLUMES)
]
Smooth = Annotated[
    str | None, _option("smooth", "auto", "Gaussian against noise, sigma in px; 0 for none, auto by the noise.", VOLUMES)
]
Spacing = Annotated[
    str | None, _option("spacing", "the file's own", "Steps between voxels, Z,Y,X, in the file's unit, or um.", VOLUMES)
]
Series = Annotated[
    str | None, _option("series", "the only one", "DICOM series of a folder: its number, or the end of its UID.", VOLUMES)
]
AllowGaps = Annotated[bool | None, _flag("allow-gaps", "Read a DICOM series with missing slices, as no data.", VOLUMES)]
Link = Annotated[str | None, _option("link", "iou", "Objects through slices: iou, or none (each slice alone).", VOLUMES)]
LinkIou = Annotated[float | None, _option("link-iou", "0.3", "Least IoU of masks in neighbouring slices.", VOLUMES)]
LinkGap = Annotated[int | None, _option("link-gap", "2", "Slices in which an object may be missed.", VOLUMES)]
LinkNeck = Annotated[
    float | None, _option("link-neck", "0.6", "Part objects where they narrow to less than this share; 0 never.", VOLUMES)
]
Complex = Annotated[
    str | None, _option("complex", "refused", "What to read of complex numbers: abs (magnitude) or real (real part).", INPUT)
]
RequireCrs = Annotated[bool | None, _flag("require-crs", "Refuse images without a coordinate system.", INPUT)]
AllowVrt = Annotated[bool | None, _flag("allow-vrt", "Open VRT files whose sources lie in their own folder.", INPUT)]
MaxPixels = Annotated[float | None, _option("max-pixels", "4e12", "Refuse images that claim more pixels.", INPUT)]
Tile = Annotated[int | None, _option("tile", "the model's", "Side of a tile's window, px.", TILES)]
Overlap = Annotated[int | None, _option("overlap", "the model's", "Pixels that neighbouring windows share, even.", TILES)]
MatchIou = Annotated[
    float | None, _option("match-iou", "0.3", "Least IoU, where two tiles both look, of two readings of one object.", OBJECTS)
]
MinArea = Annotated[int | None, _option("min-area", "0", "Smallest object written, px; of a volume, voxels.", OBJECTS)]
MinScore = Annotated[float | None, _option("min-score", "0", "Least score of an object written, 0 to 1.", OBJECTS)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        parser=target_of,
        metavar="PATH",
        show_default="here",
        rich_help_panel=WRITING,
        help="Output file or folder; with a / at its end always a folder.",
    ),
]
Format = Annotated[
    list[str] | None,
    _option(
        "format",
        "gpkg; masks,volume,objects",
        "Outputs: gpkg, fgb, cog, ome-zarr, nifti, ply; all in docs/outputs.md.",
        WRITING,
        ("-f",),
    ),  # fmt: skip
]
Simplify = Annotated[
    str | None, _option("simplify", "0", "Simplify outlines by up to this, 0.5m: metres in every CRS.", WRITING)
]
Preview = Annotated[bool | None, _flag("preview", "Draw a PNG beside the result (on unless told otherwise).", WRITING)]
Overwrite = Annotated[bool | None, _flag("overwrite", "Replace outputs and tiles of another job.", WRITING)]
Workers = Annotated[int | None, _option("workers", "by cores and memory", "Processes that predict.", RUNNING)]
Device = Annotated[str | None, _option("device", "auto", "auto, cpu, cuda, cuda:N or mps.", RUNNING)]
Devices = Annotated[
    str | None, _option("devices", "one", "GPUs to predict on, a process on each: all, or numbers, 0,1.", RUNNING)
]
Batch = Annotated[int | None, _option("batch", "the model's", "Tiles or prompts per forward pass.", RUNNING)]
Autocast = Annotated[bool | None, _flag("autocast", "Predict in bfloat16: faster on a GPU, approximate.", RUNNING)]
Compile = Annotated[
    bool | None, _flag("compile", "Compile the network: first tiles slower, equal up to rounding; needs a compiler.", RUNNING)
]
Work = Annotated[
    Path | None, _option("work", "beside the output", "Run folder: finished tiles, so that a killed run goes on.", RUNNING)
]
AllowPartial = Annotated[bool | None, _flag("allow-partial", "Exit with 0 although some tiles failed.", RUNNING)]
CheckSpace = Annotated[
    bool | None, _flag("check-space", "Refuse to begin without room for the results (on unless told otherwise).", RUNNING)
]
CpuFallback = Annotated[
    bool | None, _flag("cpu-fallback", "Use the CPU without an accelerator, and for tiles too large for its memory.", RUNNING)
]
OnBadTile = Annotated[
    str | None,
    _option("on-bad-tile", "skip", "A tile that fails twice: skip (noted, exit 4) or fail (stop at once).", RUNNING),
]
Dask = Annotated[
    str | None,
    _option("dask", "none", "Predict with Dask: tcp://host:8786 (running), local:4 or slurm:8 (workers to start).", RUNNING),
]
Profile = Annotated[bool | None, _flag("profile", "Tell where the time went: shares of each phase, speed, memory.", RUNNING)]
TimeLimit = Annotated[
    str | None,
    _option("time-limit", "SLURM's, else none", "Stop in good order after this long: 3h, 55m, 1h30m, 02:59:00.", RUNNING),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file of options by their long names.", rich_help_panel=RUNNING)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.", rich_help_panel=RUNNING)]
Json = Annotated[
    bool, typer.Option("--json", help="Print a summary as JSON on stdout, one line per input.", rich_help_panel=RUNNING)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.", rich_help_panel=RUNNING)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell more.", rich_help_panel=RUNNING)]

NOT_SETTINGS = frozenset(
    {
        "ctx",
        "inputs",
        "out",
        "config",
        "dry_run",
        "json_",
        "quiet",
        "verbose",
        "nested",
        "slides",
        "pixels",
        "time_limit",
        "job",
        "shards",
        "emit",
    }
)
"""Parameters of commands that are not fields of a settings record; `nested` is a model setting with a name of its own."""


def gather(ctx: typer.Context, config: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by field name from all sources, and where each came from.

    Raises:
        ConfigError: The configuration file or a value cannot be read.
    """
    values, origin = {}, {}
    for name, value in _read_toml(config).items():
        values[name], origin[name] = value, str(config)
    for name, value in ctx.params.items():
        if (name in NOT_SETTINGS and name != "nested") or value is None or value in ([], ()):
            continue
        source = ctx.get_parameter_source(name)
        from_variable = source is not None and source.name == "ENVIRONMENT"
        values[name] = {**pairs(values.get("set", {})), **pairs(value)} if name == "set" else value
        origin[name] = f"SEGGEO_{name.upper()}" if from_variable else f"--{name.replace('_', '-')}"
    nested = values.pop("nested", None)
    if nested is not None:
        values["set"] = {**pairs(values.get("set", {})), "nested": nested}
        origin.setdefault("set", origin.pop("nested"))
    return converted(values), origin


def values_of(**given: Any) -> dict[str, Any]:
    """Options that were given, by field name, as their fields want them; the rest keep their defaults.

    Raises:
        ConfigError: A value that means nothing.
    """
    return converted({name: value for name, value in given.items() if value is not None})


def defaults() -> dict[str, Any]:
    """Default of every field, by name."""
    records = (Reading(), Tiling(), Merge(), Output(), Execution(), Settings())
    nested = {"reading", "tiling", "merge", "output"}
    return {f.name: getattr(r, f.name) for r in records for f in fields(r) if f.name not in nested}


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(what=f"{path} cannot be read", why=str(error), mend="give a TOML file: tile = 1024") from error
    named = {name.replace("-", "_"): value for name, value in values.items()}
    known = {*defaults(), "nested"}
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigError(
                what=f"{path} has an unknown setting {name.replace('_', '-')}",
                why=f"known are the long names of options: {', '.join(sorted(known)).replace('_', '-')}",
                mend=f"did you mean {near[0].replace('_', '-')}?" if near else "give it on the command line, or leave it out",
            )
    return named


def duration(text: str | None) -> float | None:
    """Seconds of `3h`, `55m`, `1h30m`, `90s`, `90`, or of a batch system's `1-02:59:00` and `02:59:00`; None of None.

    Raises:
        ConfigError: It is none of these.
    """
    if text is None:
        return None
    units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text.strip())
    found = clock or units
    seconds = sum(float(v or 0) * s for v, s in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0.0
    if not seconds:
        raise refused("time_limit", text, "it is a time such as 3h, 55m, 1h30m, 90s or 02:59:00")
    return seconds
