"""`seggeo run`, `merge` and `status`: what becomes of a planned job, on one machine or on many."""

from __future__ import annotations

import os
import sys
from contextlib import closing, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.cli.segment import progress_of, stoppable, time_left
from seggeo.cli.talk import Talk
from seggeo.errors import IncompleteError, SeggeoError

JobFolder = Annotated[Path, typer.Argument(metavar="JOB", help="Folder that seggeo plan made.", show_default=False)]
Part = Annotated[
    str | None,
    typer.Option(
        "--part", show_default=False,
        help="Shard i/N, from 1/N to N/N. Default: what the array variable of SLURM, PBS, LSF or SGE says, else all.",
    ),
]  # fmt: skip


def run(  # noqa: PLR0913 - one parameter per option
    job: JobFolder,
    part: Part = None,
    workers: o.Workers = None,
    device: o.Device = None,
    devices: o.Devices = None,
    batch: o.Batch = None,
    on_bad_tile: o.OnBadTile = None,
    allow_partial: o.AllowPartial = None,
    dask: o.Dask = None,
    profile: o.Profile = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    json_: o.Json = False,
) -> None:
    """Predict a planned job, or one shard of it. Finished parts are kept; the same command goes on where it was."""
    from seggeo.run.batch import NODES, load_batch
    from seggeo.run.dask_cluster import kept_clusters
    from seggeo.run.nodes import NodeLog
    from seggeo.run.shards import parse_part, part_from

    talk = Talk(quiet=quiet, verbose=False, json=json_, out=sys.stdout)
    limit_s = time_left(time_limit, talk)
    planned = load_batch(job)
    execution = _execution(
        planned, workers=workers, device=device, devices=devices, batch=batch, on_bad_tile=on_bad_tile,
        allow_partial=allow_partial, dask=dask, profile=profile,
    )  # fmt: skip
    asked = part if part is not None else part_from(os.environ)
    shard = parse_part(asked, planned.shards) if asked is not None else (1, 1)
    log = NodeLog(planned.folder / NODES, shard)
    code = 1
    try:
        with stoppable(limit_s), kept_clusters(), redirect_stdout(sys.stderr):
            _run_shard(planned, shard, execution, (talk, log))
        code = 0
    except SeggeoError as error:
        code = error.exit_code
        raise
    finally:
        log.end(code)


def _execution(planned: Any, **given: Any) -> Any:
    """How the job was planned to run, but for what is said here."""
    return replace(planned.execution, **{name: value for name, value in given.items() if value is not None})


def _run_shard(planned: Any, shard: tuple[int, int], execution: Any, told: tuple[Talk, Any]) -> None:
    from seggeo.cli.progress import Progress
    from seggeo.run.batch_run import Begun, run_shard
    from seggeo.run.profile import Profiler

    talk, log = told
    profiler = Profiler(is_wanted=execution.profile)
    reports: list[Any] = []
    failures = readings = 0
    progress = Progress(tiles=0, megapixels_per_tile=0, quiet=True)
    events = run_shard(planned, *shard, execution)
    with closing(events), profiler.span("predict"):
        for event in events:
            if isinstance(event, Begun):
                talk.say(f"{event.task.path}: {event.todo} parts to predict")
                progress.close()
                progress = progress_of(event.task.job, event.tiles, talk)
                continue
            item, report = event
            progress.add(report, resumed=report.resumed)
            readings += report.instances
            failures += len(report.notes["failures"])
            if not report.resumed:
                reports.append(replace(report, notes=None))
                log.part(item, report)
    progress.close()
    parts = len(reports)
    talk.say(f"shard {shard[0]}/{shard[1]} is done: {parts} parts predicted now, {readings} readings, {failures} failed tiles")
    profile = profiler.profile(reports) if reports else None
    counted = {} if profile is None else {"profile": profile.to_json()}
    talk.profile(counted.get("profile"))
    talk.result({"shard": list(shard), "parts": parts, "readings": readings, "failed_tiles": failures, **counted})
    if failures and not execution.allow_partial:
        raise IncompleteError(
            what=f"{failures} tiles of this shard failed", why="see failures.jsonl in the run folders after the merge",
            mend="run the same command again, or go on to the merge",
        )  # fmt: skip


def merge(
    job: JobFolder,
    allow_partial: o.AllowPartial = None,
    overwrite: o.Overwrite = None,
    profile: o.Profile = None,
    quiet: o.Quiet = False,
    json_: o.Json = False,
) -> None:
    """Merge a predicted job across its seams and write every output; refused while parts are missing (--allow-partial)."""
    from seggeo.run.batch import load_batch

    talk = Talk(quiet=quiet, verbose=False, json=json_, out=sys.stdout)
    planned = load_batch(job)
    execution = _execution(planned, allow_partial=allow_partial, overwrite=overwrite, profile=profile)
    with stoppable(), redirect_stdout(sys.stderr):
        if planned.kind == "count-cells":
            _merge_counts(planned, execution, talk)
        else:
            _merge_all(planned, execution, talk)


def _merge_all(planned: Any, execution: Any, talk: Talk) -> None:
    from seggeo.run.batch_merge import merge_item

    bad = len(planned.failures)
    for item in range(len(planned.folders)):
        try:
            _, _, summary = merge_item(planned, item, execution)
        except SeggeoError as error:
            if len(planned.folders) + bad == 1 or error.exit_code in (7, 8, 75):
                raise
            talk.error(error, planned.folders[item])
            bad += 1
            continue
        talk.summary(summary.to_json(), is_new=True)
        bad += summary.failed_tiles > 0
    _check_bad(bad, planned, execution)


def _merge_counts(planned: Any, execution: Any, talk: Talk) -> None:
    from seggeo.cli.count_cells import tell_counted
    from seggeo.run.batch_merge import merge_item
    from seggeo.run.count import refusal_of, sum_up
    from seggeo.run.count_folder import REPORT, check_folder, write_page, write_tables
    from seggeo.run.slides import Slide

    check_folder(planned.out, overwrite=execution.overwrite)
    counted: list[Any] = []
    failures = [(Slide(**entry["slide"]), _refusal(entry["error"])) for entry in planned.failures]
    incomplete = 0
    for item in range(len(planned.folders)):
        task = planned.task(item)
        slide = Slide(**task.slide)
        try:
            task, plan, summary = merge_item(planned, item, execution)
            counted.append(sum_up(plan, slide, summary, planned.out))
            incomplete += summary.failed_tiles > 0
            talk.say(f"{slide.path}: {summary.objects} cells")
            tell_counted(counted[-1], talk)
        except Exception as error:  # noqa: BLE001 - whatever happens to one slide, the others are counted
            refused = refusal_of(error)
            talk.error(refused, slide.id)
            failures.append((slide, refused))
        write_tables(planned.out, counted, failures)
    page = write_page(planned.out, counted, failures, {"command": " ".join(planned.facts["command"])})
    talk.say(f"{len(counted)} slides, {sum(done.row['cells'] for done in counted)} cells: {page} ({REPORT}: look at it first)")
    _check_bad(len(failures) + incomplete, planned, execution)


def _refusal(entry: dict[str, Any]) -> SeggeoError:
    """The error that planning met."""
    kinds = {kind.__name__: kind for kind in SeggeoError.__subclasses__()}
    return kinds.get(entry["kind"], SeggeoError)(what=entry["what"], why=entry["why"], mend=entry["mend"])


def _check_bad(bad: int, planned: Any, execution: Any) -> None:
    if bad and not execution.allow_partial:
        raise IncompleteError(
            what=f"{bad} of {len(planned.folders) + len(planned.failures)} inputs failed or are incomplete", why="see above",
            mend="mend them and run the same commands again, or accept it with --allow-partial",
        )  # fmt: skip


def status(job: JobFolder, json_: o.Json = False) -> None:
    """Tell how far a job is: parts done, who does them, how fast, what is missing and what to do next."""
    import json

    from seggeo.run.batch import load_batch
    from seggeo.run.batch_status import batch_status

    found = batch_status(load_batch(job))
    if json_:
        print(json.dumps(found))
        return
    print(f"{found['job']}: {found['parts_done']} of {found['parts']} parts, {found['work_done']:.1%} of the work, ", end="")
    print(f"{found['inputs_merged']} of {found['inputs']} inputs merged")
    left = "" if found["eta_s"] is None else f", about {found['eta_s']} s left"
    print(f"  {found['tiles_per_s']:g} tiles a second{left}")
    for node in found["nodes"]:
        shard = "/".join(map(str, node["shard"]))
        print(f"  {node['host']} {node['pid']}: shard {shard}, {node['state']}, {node['parts']} parts, ", end="")
        print(f"{node['tiles_per_s']:g} tiles/s, {node['memory_bytes'] / 1e9:.2f} GB")
    for line in found["advice"]:
        print(f"  {line}")
