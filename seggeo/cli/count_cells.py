"""`seggeo count-cells`: slides in, counts, tables and a report out."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.cli.segment import announced, stoppable, time_left
from seggeo.cli.talk import Talk
from seggeo.config import settings_from
from seggeo.errors import ConfigError, IncompleteError, SeggeoError, SeggeoWarning

Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Slides: files, folders, globs, or a manifest CSV with columns path, mpp, id.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.", rich_help_panel=o.WRITING)]
Pixels = Annotated[
    bool, typer.Option("--pixels", help="Measure in pixels where the resolution is unknown.", rich_help_panel=o.INPUT)
]
_FORMATS = Annotated[
    list[str] | None,
    typer.Option(
        "--format", "-f", envvar="SEGGEO_FORMAT", show_default="qupath,cells,ome-tiff", rich_help_panel=o.WRITING,
        help="Files of each slide: qupath, cells, cells-csv, ome-tiff, ome-zarr, cog, gpkg; several with commas.",
    ),
]  # fmt: skip
_TISSUE = Annotated[
    str | None,
    typer.Option(
        "--tissue", envvar="SEGGEO_TISSUE", show_default="auto", rich_help_panel=o.INPUT,
        help="Count in tissue alone: auto, none, or a mask image or GeoJSON of it.",
    ),
]  # fmt: skip


def count_cells(  # noqa: PLR0913 - one parameter per option; they go straight into the settings records
    ctx: typer.Context,
    slides: Slides,
    out: Folder,
    model: o.Model = None,
    weights: o.Weights = None,
    set: o.Set = None,
    diameter: o.Diameter = None,
    mpp: o.Mpp = None,
    work_mpp: o.WorkMpp = None,
    pixels: Pixels = False,
    channel: o.Channel = None,
    bands: o.Bands = None,
    tissue: _TISSUE = None,
    stretch: o.Stretch = None,
    stain_norm: o.StainNorm = None,
    max_pixels: o.MaxPixels = None,
    tile: o.Tile = None,
    overlap: o.Overlap = None,
    match_iou: o.MatchIou = None,
    min_area: o.MinArea = None,
    min_score: o.MinScore = None,
    format: _FORMATS = None,
    regions: o.Regions = None,
    positive: o.Positive = None,
    preview: o.Preview = None,
    overwrite: o.Overwrite = None,
    workers: o.Workers = None,
    device: o.Device = None,
    devices: o.Devices = None,
    batch: o.Batch = None,
    autocast: o.Autocast = None,
    compile: o.Compile = None,
    allow_partial: o.AllowPartial = None,
    check_space: o.CheckSpace = None,
    cpu_fallback: o.CpuFallback = None,
    on_bad_tile: o.OnBadTile = None,
    dask: o.Dask = None,
    profile: o.Profile = None,
    time_limit: o.TimeLimit = None,
    config: o.Config = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Count the cells of slides: every cell outlined and measured, densities with intervals, tables and a report.

    One bad slide never costs the others. A count that was stopped goes on where it was when the same command is given again.
    """
    talk = Talk(quiet=quiet, verbose=verbose, json=json_, out=sys.stdout)
    limit_s = time_left(time_limit, talk)
    found, how = counting_of(ctx, slides, out, config)
    from seggeo.run.dask_cluster import kept_clusters

    with stoppable(limit_s), kept_clusters(), redirect_stdout(sys.stderr):
        _count_all(found, how, talk)


def counting_of(ctx: typer.Context, slides: list[str], out: Path, config: Path | None) -> tuple[list[Any], Any]:
    """The slides that a command line asks for, and how they are counted; the folder of the results is there.

    Raises:
        ConfigError: Of options that are wrong, or do not go together.
    """
    from seggeo.run.count import COUNT_DEFAULTS, Counting
    from seggeo.run.count_folder import check_folder
    from seggeo.run.intensity import Rule
    from seggeo.run.slides import find_slides

    if ctx.params.get("verbose"):
        logging.getLogger("seggeo").setLevel(min(logging.INFO, logging.getLogger().level))
    values, _ = o.gather(ctx, config)
    settings, execution = settings_from({**COUNT_DEFAULTS, **values})
    if settings.output.positive is not None:
        Rule(settings.output.positive)
    regions = settings.output.regions
    if regions is not None and not regions.is_file():
        raise ConfigError(what=f"--regions {regions}", why="there is no such file", mend="give GeoJSON as QuPath exports it")
    found = find_slides(slides)
    check_folder(out, overwrite=execution.overwrite)
    return found, Counting(settings=settings, execution=execution, out=out, pixels=bool(ctx.params.get("pixels")))


def _count_all(slides: list[Any], how: Any, talk: Talk) -> None:
    """Count every slide; one that fails does not keep the others from being done."""
    from seggeo.run.count import refusal_of
    from seggeo.run.count_folder import ERRORS, REPORT, write_page, write_tables
    from seggeo.run.plan import public_name

    counted: list[Any] = []
    failures: list[tuple[Any, SeggeoError]] = []
    for slide in slides:
        try:
            counted.append(_count_one(slide, how, talk))
        except Exception as error:  # noqa: BLE001 - whatever happens to one slide, the others are counted
            refused = refusal_of(error)
            talk.failed(slide.path, refused)
            failures.append((slide, refused))
            if len(slides) == 1:
                write_tables(how.out, counted, failures)
                raise
            talk.error(refused, slide.id)
        write_tables(how.out, counted, failures)
    command = shlex.join(["seggeo", *map(public_name, sys.argv[1:])])
    page = write_page(how.out, counted, failures, {"command": command})
    talk.say(f"{len(counted)} of {len(slides)} slides, {sum(done.row['cells'] for done in counted)} cells")
    talk.say(f"  {how.out / 'counts.csv'}  (a row for each slide)")
    talk.say(f"  {page}  (look at it first)")
    incomplete = [done.slide.id for done in counted if done.summary.failed_tiles]
    if (failures or incomplete) and not how.execution.allow_partial:
        where = f"see {how.out / ERRORS}" if failures else f"tiles failed in {', '.join(incomplete[:3])}: see {REPORT}"
        raise IncompleteError(
            what=f"{len(failures)} of {len(slides)} slides failed and {len(incomplete)} are incomplete", why=where,
            mend="mend them and run the same command again, or accept it with --allow-partial",
        )  # fmt: skip


def _count_one(slide: Any, how: Any, talk: Talk) -> Any:
    from seggeo.run.count import Counted, count_slide
    from seggeo.run.part import PartReport
    from seggeo.run.plan import Plan

    progress, counted = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("always", SeggeoWarning)
        events = count_slide(slide, how)
        with closing(events):
            try:
                for event in events:
                    if isinstance(event, Plan):
                        progress = announced(slide.path, how.settings, event, talk)
                    elif isinstance(event, PartReport) and progress is not None:
                        progress.add(event, resumed=event.resumed)
                    elif isinstance(event, Counted):
                        counted = event
            finally:
                if progress is not None:
                    progress.close()
    assert counted is not None
    row = counted.row
    density = counted.report.density
    talk.say(f"  {row['cells']} cells" + (f", {density}" if density else ""))
    tell_counted(counted, talk)
    return counted


def tell_counted(counted: Any, talk: Talk) -> None:
    """A slide's row, and where the time went, if that was counted."""
    told = {} if counted.profile is None else {"profile": counted.profile.to_json()}
    talk.profile(told.get("profile"))
    talk.result({**counted.row, **told})
