"""The main job: one input from pixels to files, told as it goes.

`segment_file` yields what happens: the `Plan`, a `PartReport` for each part done (those of an earlier run first), and
last the `Summary`. Whoever drives it draws the progress; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import seggeo.io as image_io
from seggeo.config import Execution, Settings
from seggeo.errors import IncompleteError
from seggeo.files import remove_leftovers
from seggeo.run.checks import check_formats, check_outputs, check_room
from seggeo.run.dask_cluster import crew_of
from seggeo.run.devices import devices_of
from seggeo.run.enrich import check_extras
from seggeo.run.execute import choose_workers, pending, run_parts
from seggeo.run.formats import check_fit, with_formats
from seggeo.run.naming import places
from seggeo.run.outcome import Summary, finish, finished_before
from seggeo.run.part import PartReport, Recipe, check_unchanged
from seggeo.run.plan import Plan, estimate, input_name, make_plan
from seggeo.run.profile import Profiler
from seggeo.store import RunStore


def segment_file(
    path: str,
    settings: Settings,
    execution: Execution,
    out: Path | None = None,
    *,
    stem: str | None = None,
    command: tuple[str, ...] = (),
) -> Generator[Plan | PartReport | Summary, None, None]:
    """Segment one input.

    Args:
        path: The input.
        settings: What defines the result.
        execution: How it is run.
        out: Output file or folder; default: the current folder.
        stem: Begins the names of the outputs; default: the input's name without its ending.
        command: The command line, for the report.

    Raises:
        SeggeoError: Of the kind that fits; nothing is written under a final name then.
    """
    profiler = Profiler(is_wanted=execution.profile)
    settings = with_formats(path, settings, out)
    where = places(out, stem or input_name(path), settings.output.format, execution.work)
    check_formats(settings)
    with profiler.span("plan"):
        plan = make_plan(path, settings, execution)
    yield plan
    check_fit(where.outputs, plan.job.frame)
    check_extras(settings.output, plan.job.frame)
    check_outputs(where, plan, execution)
    store = RunStore(where.work)
    finished = None if execution.overwrite else finished_before(where, plan, store)
    if finished is not None:
        yield finished
        return
    if execution.check_space:
        check_room(where.provenance.parent, where.work, estimate(plan)["disk_bytes"])
    store.open(plan.job, overwrite=execution.overwrite)
    for folder in {path.parent for path in where.outputs.values()}:
        remove_leftovers(folder)
    todo, reports = pending(store, range(len(plan.job.parts)), tile_key=plan.job.tile_key)
    yield from reports
    if todo:
        devices = devices_of(execution)
        workers, threads = choose_workers(
            execution.workers, device=plan.info.device, memory_bytes=estimate(plan)["memory_bytes"], parts=len(todo),
            devices=len(devices),
        )  # fmt: skip
        recipe = Recipe(
            path=path,
            reading=plan.settings.reading,
            job=plan.job,
            request=plan.request,
            threads=threads,
            devices=devices,
            profile=execution.profile,
        )
        crew = crew_of(execution.dask, memory_bytes=estimate(plan)["memory_bytes"], folder=where.work)
        with profiler.span("predict"):
            for report in run_parts(recipe, where.work, todo, workers=workers, segmenter=plan.segmenter, crew=crew):
                reports.append(report)
                yield report
                if execution.on_bad_tile == "fail" and report.notes["failures"]:
                    raise _bad_tile(plan, report.notes["failures"][0])
        _check_input(path, plan)
    yield finish(path, plan, where, reports, profiler=profiler, command=command)


def _bad_tile(plan: Plan, failure: Mapping[str, Any]) -> IncompleteError:
    where = f"tile {failure['tile']} of {plan.job.source['path']}, at row {failure['row']} col {failure['col']}"
    return IncompleteError(
        what=f"{where}, failed", why=f"{failure['error']}: {' '.join(str(failure['message']).split())}",
        mend="mend it and run the same command again, or go on without such tiles: --on-bad-tile skip",
    )  # fmt: skip


def _check_input(path: str, plan: Plan) -> None:
    source = image_io.open_source(path, plan.settings.reading, native=plan.is_native)
    try:
        check_unchanged(source, plan.job)
    finally:
        source.close()
