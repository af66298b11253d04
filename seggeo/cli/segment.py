"""`seggeo segment`: the main job, from the command line."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from contextlib import AbstractContextManager, closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.cli.inputs import expand
from seggeo.cli.talk import Talk, first_failure
from seggeo.config import Execution, Reading, Settings, settings_from
from seggeo.errors import ConfigError, IncompleteError, SeggeoError

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Rasters, slides, volumes: files, globs, addresses, folders that are one volume or Zarr.",
        show_default=False,
    ),
]


def segment(  # noqa: PLR0913 - one parameter per option; they go straight into the settings records
    ctx: typer.Context,
    inputs: Inputs,
    out: o.Out = None,
    model: o.Model = None,
    weights: o.Weights = None,
    set: o.Set = None,
    diameter: o.Diameter = None,
    mpp: o.Mpp = None,
    nested: o.Nested = None,
    work_mpp: o.WorkMpp = None,
    channel: o.Channel = None,
    tissue: o.Tissue = None,
    bands: o.Bands = None,
    gsd: o.Gsd = None,
    nodata: o.Nodata = None,
    aoi: o.Aoi = None,
    stretch: o.Stretch = None,
    stain_norm: o.StainNorm = None,
    complex: o.Complex = None,
    axis: o.Axis = None,
    time: o.Time = None,
    window: o.CtWindow = None,
    neighbours: o.Neighbours = None,
    smooth: o.Smooth = None,
    spacing: o.Spacing = None,
    series: o.Series = None,
    allow_gaps: o.AllowGaps = None,
    link: o.Link = None,
    link_iou: o.LinkIou = None,
    link_gap: o.LinkGap = None,
    link_neck: o.LinkNeck = None,
    require_crs: o.RequireCrs = None,
    allow_vrt: o.AllowVrt = None,
    max_pixels: o.MaxPixels = None,
    tile: o.Tile = None,
    overlap: o.Overlap = None,
    match_iou: o.MatchIou = None,
    min_area: o.MinArea = None,
    min_score: o.MinScore = None,
    format: o.Format = None,
    simplify: o.Simplify = None,
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
    work: o.Work = None,
    allow_partial: o.AllowPartial = None,
    check_space: o.CheckSpace = None,
    cpu_fallback: o.CpuFallback = None,
    on_bad_tile: o.OnBadTile = None,
    dask: o.Dask = None,
    profile: o.Profile = None,
    time_limit: o.TimeLimit = None,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Segment images and volumes of any size into objects, whole across tile seams and slices, in coordinates of the world.

    A run that was stopped goes on where it was when the same command is given again.
    """
    talk = Talk(quiet=quiet, verbose=verbose, json=json_, out=sys.stdout)
    limit_s = time_left(time_limit, talk)
    jobs, origin = jobs_of(ctx, inputs, out, config)
    if dry_run:
        for job in jobs:
            _show_plan(job, origin, talk)
        return
    from seggeo.run.dask_cluster import kept_clusters

    # Standard output is for results: what a model prints goes where messages go.
    with stoppable(limit_s), kept_clusters(), redirect_stdout(sys.stderr):
        _segment_all(jobs, talk)


def jobs_of(
    ctx: typer.Context, inputs: list[str], out: Path | None, config: Path | None
) -> tuple[list[Job], dict[str, str]]:  # fmt: skip
    """What a command line asks for, input by input, and where each setting comes from.

    Raises:
        ConfigError: Of options that are wrong, or do not go together.
    """
    from seggeo.run.enrich import check_tables
    from seggeo.run.naming import format_of, with_format

    if ctx.params.get("verbose"):
        logging.getLogger("seggeo").setLevel(min(logging.INFO, logging.getLogger().level))
    values, origin = o.gather(ctx, config)
    if format_of(out) is not None:
        origin.setdefault("format", "-o")
    settings, execution = settings_from(with_format(values, out))
    check_tables(settings.output)
    names = expand(inputs)
    if len(names) > 1 and format_of(out) is not None:
        raise ConfigError(
            what=f"{len(names)} inputs and one output file {out}", why="each input gets its own", mend="give a folder with -o"
        )
    jobs = [
        Job(name=name, stem=stem, settings=settings, execution=_own_work(execution, stem, len(names)), out=out)
        for name, stem in names
    ]
    return jobs, origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One input and what is asked of it."""

    name: str
    stem: str
    settings: Settings
    execution: Execution
    out: Path | None


def _own_work(execution: Execution, stem: str, count: int) -> Execution:
    """Of several inputs each gets a run folder of its own inside the one the user chose."""
    if count == 1 or execution.work is None:
        return execution
    return replace(execution, work=execution.work / f"{stem}.seggeo")


def _segment_all(jobs: list[Job], talk: Talk) -> None:
    """Segment every input; one that fails does not keep the others from being done."""
    from seggeo.run.plan import public_name

    failed = 0
    for job in jobs:
        try:
            summary = _segment_one(job, talk)
        except SeggeoError as error:
            talk.failed(public_name(job.name), error)
            if len(jobs) == 1:
                raise
            talk.error(error, public_name(job.name))
            failed += 1
            continue
        if summary["failed_tiles"] and not job.execution.allow_partial:
            failed += 1
            if len(jobs) == 1:
                raise _incomplete(summary)
    if failed and not jobs[0].execution.allow_partial:
        raise IncompleteError(
            what=f"{failed} of {len(jobs)} inputs failed or are incomplete",
            why="they, or some of their tiles, could not be processed: see above, and failures.jsonl in the run folders",
            mend="mend them and run the same command again, or accept it with --allow-partial",
        )


def _incomplete(summary: dict[str, Any]) -> IncompleteError:
    return IncompleteError(
        what=f"{summary['input']} is incomplete: {summary['failed_tiles']} of {summary['tiles']} tiles failed",
        why=f"{first_failure(summary)} (all of them: {summary['work']}/failures.jsonl)",
        mend="mend it and run the same command again, finished tiles are kept; or accept it with --allow-partial",
    )


def _segment_one(job: Job, talk: Talk) -> dict[str, Any]:
    """Segment one input with progress; its summary."""
    from seggeo.cli.progress import Progress
    from seggeo.run.outcome import Summary
    from seggeo.run.part import PartReport
    from seggeo.run.plan import Plan
    from seggeo.run.segment import segment_file

    progress: Progress | None = None
    summary: dict[str, Any] = {}
    is_new = False
    command = tuple(sys.argv)
    events = segment_file(job.name, job.settings, job.execution, job.out, stem=job.stem, command=command)
    with closing(events):
        try:
            for event in events:
                if isinstance(event, Plan):
                    progress = announced(job.name, job.settings, event, talk)
                elif isinstance(event, PartReport) and progress is not None:
                    is_new = True
                    progress.add(event, resumed=event.resumed)
                elif isinstance(event, Summary):
                    summary = event.to_json()
        finally:
            if progress is not None:
                progress.close()
    talk.summary(summary, is_new=is_new)
    return summary


def announced(name: str, asked: Settings, plan: Any, talk: Talk) -> Any:
    """The first words about an input, and the progress of its tiles."""
    from seggeo.run.plan import public_name

    job = plan.job
    talk.say(f"{public_name(name)}: {_size(job.frame)}, {len(job.grid)} tiles of {job.tile} px, model {model_name(job)}")
    if job.choice is not None:
        talk.say(f"  auto took {job.choice['model']} because {job.choice['why']}; choose another with --model")
    if sized := job.model["settings"].get("sized"):
        talk.say(f"  size: {sized}; say otherwise with --diameter{'' if job.frame.placement else ' or --mpp'}")
    if ((job.stretch or {}).get("stains") or {}).get("kind") == "macenko":
        talk.say("  stains: haematoxylin and eosin in the colours of the reference")
    if asked.reading.smooth is None and plan.settings.reading.smooth:
        talk.say(f"  noise: smoothed with a Gaussian of {plan.settings.reading.smooth:g} px; say otherwise with --smooth")
    if asked.reading.gsd != (gsd := plan.settings.reading.gsd):
        talk.say(f"  read at {gsd:.3g} m a pixel, as the weights have learnt; say otherwise with --gsd")
    return progress_of(job, len(job.grid), talk)


def progress_of(job: Any, tiles: int, talk: Talk) -> Any:
    """The progress of some tiles of a job."""
    from seggeo.cli.progress import Progress

    return Progress(tiles=tiles, megapixels_per_tile=(job.tile - job.overlap) ** 2 / 1e6, quiet=talk.quiet)


def model_name(job: Any) -> str:
    """A job's model in words: the name of bundled weights with their architecture, or the model's own."""
    name, taken = str(job.model["name"]), (job.choice or {}).get("model")
    return name if taken in (None, name) else f"{taken} ({name})"


def _size(frame: Any) -> str:
    """How many slices, or frames in time, of how many pixels."""
    depth = f"{frame.depth} {'frames' if frame.is_series else 'slices'} of " if frame.depth > 1 else ""
    return f"{depth}{frame.width} x {frame.height} px"


def _show_plan(asked: Job, origin: dict[str, str], talk: Talk) -> None:
    """The plan on stdout: what would be done and where every setting comes from."""
    facts, frame = _plan_facts(asked, origin)
    if talk.json:
        talk.result(facts)
        return
    tile, overlap = (facts["settings"][key]["value"] for key in ("tile", "overlap"))
    place = "" if frame.placement is not None else f", {facts['crs'] or 'without CRS'}"
    print(f"{facts['input']}: {_size(frame)}{place}")
    print(f"  {facts['tiles']} tiles of {tile} px, overlap {overlap} px; {facts['empty_tiles']} are empty and skipped")
    print(f"  {facts['workers']} processes of about {facts['memory_bytes'] / 1e9:.1f} GB, ", end="")
    print(f"{facts['disk_bytes'] / 1e6:.0f} MB on disk")
    for path in facts["outputs"].values():
        print(f"  would write {path}")
    if facts["choice"] is not None:
        print(f"  auto takes {facts['choice']['model']} because {facts['choice']['why']}")
    print("  settings:")
    for key, entry in facts["settings"].items():
        print(f"    {key} = {entry['value']}  ({entry['from']})")


def _plan_facts(asked: Job, origin: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """What `--dry-run` tells, JSON values, and the frame."""
    from seggeo.config import to_json
    from seggeo.run.checks import check_formats, check_outputs
    from seggeo.run.devices import devices_of
    from seggeo.run.enrich import check_extras
    from seggeo.run.execute import choose_workers
    from seggeo.run.formats import check_fit, with_formats
    from seggeo.run.naming import places
    from seggeo.run.plan import count_empty, estimate, make_plan

    settings, execution = with_formats(asked.name, asked.settings, asked.out), asked.execution
    where = places(asked.out, asked.stem, settings.output.format, execution.work)
    check_formats(settings)
    plan = make_plan(asked.name, settings, execution)
    check_fit(where.outputs, plan.job.frame)
    check_extras(settings.output, plan.job.frame)
    check_outputs(where, plan, execution)
    job, needs = plan.job, estimate(plan)
    workers, _ = choose_workers(
        execution.workers, device=plan.info.device, memory_bytes=needs["memory_bytes"], parts=len(job.parts),
        devices=len(devices_of(execution)),
    )  # fmt: skip
    chosen = {**to_json(plan.settings), **to_json(execution)}
    for group in ("reading", "tiling", "merge", "output"):
        chosen.update(chosen.pop(group))
    chosen.update(tile=job.tile, overlap=job.overlap, set=dict(job.model["settings"]), bands=list(job.reading["bands"]))
    chosen.update(workers=workers, device=plan.info.device)
    return {
        "input": job.source["path"], "crs": plan.source.get("crs"),
        "depth": job.frame.depth, "width": job.frame.width, "height": job.frame.height,
        "tiles": len(job.grid), "empty_tiles": count_empty(plan, asked.name), "parts": len(job.parts), "workers": workers,
        **needs, "outputs": {kind: str(path) for kind, path in where.outputs.items()}, "model": job.model,
        "choice": job.choice,
        "settings": {k: {"value": chosen[k], "from": _origin(k, origin, plan)} for k in sorted(o.defaults())},
    }, job.frame  # fmt: skip


def _origin(name: str, origin: dict[str, str], plan: Any) -> str:
    """Where a setting's value comes from: an option, a variable, a file, the weights, the model, or the default."""
    info = plan.info
    of_model = {"tile": info.tile, "overlap": info.overlap, "set": info.settings, "batch": None}
    if name in origin:
        return origin[name]
    reading = plan.settings.reading
    if hasattr(reading, name) and getattr(reading, name) != getattr(Reading(), name):
        return "the weights"
    return "the model" if of_model.get(name) and getattr(plan.job, name, of_model[name]) == of_model[name] else "default"


def time_left(asked: str | None, talk: Talk) -> float | None:
    """Seconds until the run stops by itself: as asked, else as long as the batch system leaves, which is told; None: no end.

    Raises:
        ConfigError: What is asked is no time.
    """
    if asked is not None:
        return None if asked == "none" else o.duration(asked)
    from seggeo.run.walltime import limit_of

    limit = limit_of(os.environ)
    if limit is None:
        return None
    talk.say(f"{limit.why}: stopping in good order before that; say otherwise with --time-limit")
    return limit.seconds


def stoppable(limit_s: float | None = None) -> AbstractContextManager[None]:
    """Signals inside it, and a limit of time, become a clean stop.

    It tells the command line that goes on, without secrets in addresses.

    Raises:
        StoppedError: One came.
    """
    from seggeo.run.plan import public_name
    from seggeo.run.signals import stopping

    return stopping(lambda: shlex.join(["seggeo", *map(public_name, sys.argv[1:])]), limit_s)
