"""The main job: one input from pixels to files, told as it goes.

`segment_file` yields what happens: the `Plan`, a `PartReport` for each part done (those of an earlier run first), and
last the `Summary`. Whoever drives it draws the progress; nothing here prints.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import seggeo.io as image_io
from seggeo import plugins
from seggeo.config import Execution, Settings
from seggeo.errors import ModelError, OutputError, SourceError
from seggeo.files import remove_leftovers, translated
from seggeo.run.enrich import enriched, wants_extras
from seggeo.run.execute import PartReport, choose_workers, pending, run_parts
from seggeo.run.finish import MERGED, merge_parts, only_writer, provenance_of, write_json, write_outputs, write_preview
from seggeo.run.naming import Places, places
from seggeo.run.part import Recipe, check_unchanged
from seggeo.run.plan import Plan, estimate, input_name, make_plan, output_identity, overview_image, public_name
from seggeo.store import RunStore, publish

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did; `to_json` is what `--json` prints."""

    input: str
    outputs: dict[str, str]
    preview: str | None
    provenance: str
    work: str
    objects: int
    tiles: int
    empty_tiles: int
    capped_tiles: int
    failed_tiles: int
    readings: dict[str, int]
    """What became of everything the model reported: foreign, kept, merged, duplicates, orphans, hidden, filtered."""
    megapixels: float
    seconds: float
    model: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


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
    began = time.monotonic()
    where = places(out, stem or input_name(path), settings.output.format, execution.work)
    check_formats(settings)
    plan = make_plan(path, settings, execution)
    yield plan
    check_outputs(where, plan, execution)
    store = RunStore(where.work)
    finished = None if execution.overwrite else _finished(where, plan, store)
    if finished is not None:
        yield finished
        return
    store.open(plan.job, overwrite=execution.overwrite)
    for folder in {path.parent for path in where.outputs.values()}:
        remove_leftovers(folder)
    todo, reports = pending(store, len(plan.job.parts))
    yield from reports
    if todo:
        workers, threads = choose_workers(
            execution.workers, device=plan.segmenter.info.device, memory_bytes=estimate(plan)["memory_bytes"], parts=len(todo)
        )
        recipe = Recipe(path=path, reading=plan.settings.reading, job=plan.job, request=plan.request, threads=threads)
        for report in run_parts(recipe, where.work, todo, workers=workers, segmenter=plan.segmenter):
            reports.append(report)
            yield report
        _check_input(path, plan)
    failures = [failure for report in reports for failure in report.notes["failures"]]
    lines = "".join(f"{json.dumps(failure, sort_keys=True)}\n" for failure in failures)
    publish(store.folder / "failures.jsonl", lines.encode())
    _check_any(plan, reports, failures)
    yield _finish(path, plan, store, where, reports, (began, command))


def check_formats(settings: Settings) -> None:
    """Find every output format among the installed ones, before any work.

    Raises:
        ConfigError: One is not.
    """
    for name in settings.output.format:
        plugins.load("seggeo.sinks", name)


def check_outputs(where: Places, plan: Plan, execution: Execution) -> None:
    """Refuse to write over what another job made, or over what this one reads, before any work.

    Raises:
        OutputError: An output exists and is not this job's, is one of its inputs, or cannot be written.
    """
    ours = execution.overwrite or _read_json(where.provenance).get("merge_key") == plan.job.merge_key
    pictures = [where.preview] if plan.settings.output.preview else []
    for path in (*where.outputs.values(), *pictures, where.provenance):
        with translated(path):
            _check_output(path, plan, replaceable=ours or _is_unfinished(where, plan))
    if where.work.exists() and not where.work.is_dir():
        raise OutputError(
            what=f"{where.work} is not a folder", why="finished tiles are kept there", mend="choose another --work"
        )


def _check_output(path: Path, plan: Plan, *, replaceable: bool) -> None:
    for kind, source in (
        ("input", plan.job.source["path"]),
        ("AOI", plan.job.reading["aoi"]),
        ("weights", plan.request.weights),
    ):
        if source is not None and os.path.realpath(path) == os.path.realpath(str(source)):
            raise OutputError(
                what=f"{path} would be written over",
                why=f"it is the {kind} of this very job",
                mend="choose another name with -o",
            )
    if path.is_dir():
        raise OutputError(
            what=f"{path} is a folder", why="a file of that name is to be written", mend="choose another name with -o"
        )
    if path.exists() and not replaceable:
        raise OutputError(
            what=f"{path} exists already",
            why="seggeo does not write over files unless told to",
            mend="use --overwrite, or another name with -o",
        )
    if not _can_write(path.parent):
        raise OutputError(
            what=f"{path.parent} cannot be written to", why="the system refuses it", mend="choose another place with -o"
        )


def _check_any(plan: Plan, reports: list[PartReport], failures: list[dict[str, Any]]) -> None:
    """Refuse to call an image empty of which no tile could be processed."""
    if not failures or len(failures) < sum(report.notes["tiles"] - report.notes["empty"] for report in reports):
        return
    first = failures[0]
    why = f"{first['error']} at row {first['row']} col {first['col']}: {' '.join(str(first['message']).split())}"
    if all(failure["error"] == "SourceError" for failure in failures):
        raise SourceError(
            what=f"no tile of {plan.job.source['path']} can be read", why=why, mend="copy or download the file again"
        )
    raise ModelError(
        what=f"{plan.job.model['name']} failed in every one of {len(failures)} tiles", why=why,
        mend="try it on one tile by itself, mend it and run the same command again",
    )  # fmt: skip


def _check_input(path: str, plan: Plan) -> None:
    source = image_io.open_source(path, plan.settings.reading, native=plan.segmenter.info.native)
    try:
        check_unchanged(source, plan.job)
    finally:
        source.close()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _finished(where: Places, plan: Plan, store: RunStore) -> Summary | None:
    """The summary of an earlier run of this very job that wrote all that is asked for and lost no tile."""
    made, report = _read_json(where.provenance), _read_json(store.folder / "report.json")
    same = made.get("merge_key") == plan.job.merge_key and made.get("output") == output_identity(plan.settings.output)
    files = [*where.outputs.values(), *([where.preview] if plan.settings.output.preview else [])]
    if not same or report.pop("merge_key", None) != plan.job.merge_key or not all(path.exists() for path in files):
        return None
    report.pop("command", None)
    summary = Summary(**report)
    if summary.failed_tiles:
        return None
    return replace(  # the paths as they are called from here and now
        summary, input=str(plan.job.source["path"]), outputs={n: str(p) for n, p in where.outputs.items()},
        preview=str(where.preview) if summary.preview else None, provenance=str(where.provenance), work=str(where.work),
    )  # fmt: skip


def _is_unfinished(where: Places, plan: Plan) -> bool:
    """True when the run folder holds this very job without a report: an output there is its own, from before a kill."""
    try:
        there = RunStore(where.work).load_job_values()
    except RuntimeError:
        return False
    is_same = {**there, "choice": None} == {**plan.job.to_json(), "choice": None}  # named or chosen, it is one job
    return is_same and not (where.work / "report.json").exists()


def _can_write(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _finish(
    path: str, plan: Plan, store: RunStore, where: Places, reports: list[PartReport], run: tuple[float, tuple[str, ...]]
) -> Summary:
    """Merge, write and sum up."""
    job = plan.job
    notes = [report.notes for report in reports]
    total = {name: sum(n[name] for n in notes) for name in ("tiles", "empty", "capped", "foreign")}
    failures = [failure for n in notes for failure in n["failures"]]
    provenance = provenance_of(job)
    with only_writer(store.folder):
        result, tally, filtered = merge_parts(job, store, provenance)
        extras = enriched(plan, path, result, store.folder / MERGED) if wants_extras(plan.settings.output) else None
        written = write_outputs(result, plan.settings.output, where, extras)
        preview = None
        if plan.settings.output.preview:
            preview = write_preview(result, overview_image(plan), plan.overview.valid, where)
    readings = {
        "foreign": total["foreign"], "inputs": tally.inputs, "kept": tally.kept, "merged": tally.merged,
        "duplicates": tally.duplicates, "orphans": tally.orphans, "hidden": tally.hidden, "filtered": filtered,
    }  # fmt: skip
    summary = Summary(
        input=str(job.source["path"]), outputs={n: str(p) for n, p in zip(where.outputs, written, strict=True)},
        preview=str(preview) if preview else None, provenance=str(where.provenance), work=str(store.folder),
        objects=result.count, tiles=total["tiles"], empty_tiles=total["empty"], capped_tiles=total["capped"],
        failed_tiles=len(failures), readings=readings, model=str(job.model["name"]),
        megapixels=round(job.frame.height * job.frame.width * job.frame.depth / 1e6, 3),
        seconds=round(time.monotonic() - run[0], 2),
    )  # fmt: skip
    counts = {
        k: v for k, v in summary.to_json().items() if k in ("objects", "tiles", "empty_tiles", "capped_tiles", "failed_tiles")
    }
    values = {**provenance, "merge_key": job.merge_key, "counts": counts, "readings": readings, "failures": failures}
    named = {"output": output_identity(plan.settings.output), "outputs": sorted(p.name for p in written)}
    write_json(where.provenance, {**values, **named})
    write_json(
        store.folder / "report.json",
        {**summary.to_json(), "command": [public_name(word) for word in run[1]], "merge_key": job.merge_key},
    )
    return summary
