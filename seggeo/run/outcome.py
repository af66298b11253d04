"""From done parts to a summary: merge, write every output, say what was found and what failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seggeo.errors import ModelError, ResourceError, SourceError
from seggeo.files import publishing
from seggeo.run.enrich import enriched, wants_extras
from seggeo.run.finish import MERGED, merge_parts, only_writer, provenance_of, write_json, write_outputs, write_preview
from seggeo.run.naming import Places
from seggeo.run.part import PartReport, failure_of
from seggeo.run.plan import Plan, output_identity, overview_image, public_name
from seggeo.run.profile import PROFILE, Profile, Profiler
from seggeo.run.result import StoredResult
from seggeo.store import RunStore, publish, read_json

_ABSENT = "Absent"
_MEMORY = frozenset({"ResourceError", "MemoryError", "OutOfMemoryError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did; `to_json` is what `--json` prints."""

    input: str
    outputs: dict[str, str]
    preview: str | None
    report: str | None
    """Of a volume."""
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
    profile: Profile | None = None
    """Where the time went; None where nobody asked, or nothing was left to do."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `profile` is among them where there is one."""
        values = asdict(replace(self, profile=None))
        del values["profile"]
        return values if self.profile is None else {**values, "profile": self.profile.to_json()}


def finished_before(where: Places, plan: Plan, store: RunStore) -> Summary | None:
    """The summary of an earlier run of this very job that wrote all that is asked for and lost no tile."""
    made, report = read_json(where.provenance), read_json(store.folder / "report.json")
    same = made.get("merge_key") == plan.job.merge_key and made.get("output") == output_identity(plan.settings.output)
    is_volume = plan.job.frame.placement is not None
    pictures = [where.preview, *([where.report] if is_volume else [])] if plan.settings.output.preview else []
    files = [*where.outputs.values(), *pictures]
    if not same or report.pop("merge_key", None) != plan.job.merge_key or not all(path.exists() for path in files):
        return None
    report.pop("command", None)
    summary = Summary(**report)
    if summary.failed_tiles:
        return None
    return replace(  # the paths as they are called from here and now
        summary, input=str(plan.job.source["path"]), outputs={n: str(p) for n, p in where.outputs.items()},
        preview=str(where.preview) if summary.preview else None,
        report=str(where.report) if summary.report else None, provenance=str(where.provenance), work=str(where.work),
    )  # fmt: skip


def finish(
    path: str, plan: Plan, where: Places, reports: Sequence[PartReport], *, profiler: Profiler, command: Sequence[str] = ()
) -> Summary:  # fmt: skip
    """Merge, write and sum up; the tiles of parts without a report count as failed.

    Args:
        path: The input.
        plan: What was done.
        where: Where files go.
        reports: Of the parts that are done.
        profiler: Begun when the work began.
        command: The command line, for the report.

    Raises:
        BusyError: Another process merges this job.
        SourceError: No tile could be read.
        ModelError: The model failed in every tile.
        ResourceError: Memory ran out in every tile.
    """
    store = RunStore(where.work)
    absent = sorted(set(range(len(plan.job.parts))) - {report.part for report in reports})
    failures = [failure for report in reports for failure in report.notes["failures"]]
    failures += [failure_of(tile, _ABSENT, "its part was not predicted") for p in absent for tile in plan.job.parts.tiles(p)]
    lines = "".join(f"{json.dumps(failure, sort_keys=True)}\n" for failure in failures)
    publish(store.folder / "failures.jsonl", lines.encode())
    _check_any(plan, reports, failures)
    provenance = provenance_of(plan.job)
    with only_writer(store.folder), publishing(store.folder / MERGED) as merged:
        with profiler.span("merge"):
            result, tally, filtered = merge_parts(plan.job, store, merged, provenance, absent=frozenset(absent))
        with profiler.span("write"):
            extras = enriched(plan, path, result, merged) if wants_extras(plan.settings.output) else None
            written = write_outputs(result, plan.settings.output, where, extras, source=path)
            preview = _picture(plan, path, result, where) if plan.settings.output.preview else None
        now = profiler.profile(reports)  # the report shows it, and so cannot know how long it takes itself
        with profiler.span("write"):
            report = _report(plan, result, where, now) if preview is not None else None
    total = {name: sum(r.notes[name] for r in reports) for name in ("empty", "capped", "foreign")}
    readings = {
        "foreign": total["foreign"], "inputs": tally.inputs, "kept": tally.kept, "merged": tally.merged,
        "duplicates": tally.duplicates, "orphans": tally.orphans, "hidden": tally.hidden, "filtered": filtered,
    }  # fmt: skip
    frame = plan.job.frame
    summary = Summary(
        input=str(plan.job.source["path"]), outputs={n: str(p) for n, p in zip(where.outputs, written, strict=True)},
        preview=str(preview) if preview else None, report=str(report) if report else None,
        provenance=str(where.provenance), work=str(store.folder),
        objects=result.count, tiles=len(plan.job.grid), empty_tiles=total["empty"], capped_tiles=total["capped"],
        failed_tiles=len(failures), readings=readings, model=str(plan.job.model["name"]),
        megapixels=round(frame.height * frame.width * frame.depth / 1e6, 3), seconds=round(profiler.seconds, 2),
        profile=profiler.profile(reports),
    )  # fmt: skip
    _write_records(summary, plan, where, failures, command)
    return summary


def _picture(plan: Plan, path: str, result: StoredResult, where: Places) -> Path:
    """The picture beside the result."""
    if plan.job.frame.placement is None:
        return write_preview(result, overview_image(plan), plan.overview.valid, where)
    from seggeo.run.volume_look import write_montage

    return write_montage(plan, path, result, where)


def _report(plan: Plan, result: StoredResult, where: Places, profile: Profile | None) -> Path | None:
    """The report of a volume."""
    if plan.job.frame.placement is None:
        return None
    from seggeo.run.volume_look import write_report

    return write_report(plan, result, where, None if profile is None else profile.time_use())


def _write_records(
    summary: Summary, plan: Plan, where: Places, failures: Sequence[Mapping[str, Any]], command: Sequence[str]
) -> None:  # fmt: skip
    """The provenance beside the outputs, and the report in the run folder, with where the time went beside it."""
    values = replace(summary, profile=None).to_json()
    if summary.profile is not None:
        write_json(where.work / PROFILE, summary.profile.to_json())
    else:
        (where.work / PROFILE).unlink(missing_ok=True)  # of another run
    counted = ("objects", "tiles", "empty_tiles", "capped_tiles", "failed_tiles")
    made = {
        **provenance_of(plan.job), "merge_key": plan.job.merge_key, "counts": {name: values[name] for name in counted},
        "readings": summary.readings, "failures": list(failures), "output": output_identity(plan.settings.output),
        "outputs": sorted(path.name for path in where.outputs.values()),
    }  # fmt: skip
    write_json(where.provenance, made)
    words = [public_name(word) for word in command]
    write_json(where.work / "report.json", {**values, "command": words, "merge_key": plan.job.merge_key})


def _check_any(plan: Plan, reports: Sequence[PartReport], failures: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to call an image empty of which no tile could be processed."""
    if not failures or len(failures) < len(plan.job.grid) - sum(report.notes["empty"] for report in reports):
        return
    first = failures[0]
    why = f"{first['error']} at row {first['row']} col {first['col']}: {' '.join(str(first['message']).split())}"
    if all(failure["error"] == "SourceError" for failure in failures):
        raise SourceError(
            what=f"no tile of {plan.job.source['path']} can be read", why=why, mend="copy or download the file again"
        )
    if all(failure["error"] in _MEMORY for failure in failures):
        raise ResourceError(
            what="out of memory in every tile", why=why, mend="use fewer --workers, a smaller --tile or --device cpu"
        )
    raise ModelError(
        what=f"{plan.job.model['name']} failed in every one of {len(failures)} tiles", why=why,
        mend="try it on one tile by itself, mend it and run the same command again",
    )  # fmt: skip
