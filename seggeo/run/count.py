"""One slide counted: segmented as any image is, then measured, mapped and summed up.

`count_slide` yields what `segment_file` yields and last a `Counted`; that is kept in the run folder, so that a slide that
was done before costs nothing when the command is given again.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.config import Execution, Settings
from seggeo.errors import ConfigError, SeggeoError, SeggeoWarning, SourceError
from seggeo.io.masked import MaskedSource
from seggeo.io.regions import read_regions
from seggeo.output.cells_table import Extras
from seggeo.output.density import CellMap, Density, Ratio, density_of, map_cells, positivity_of
from seggeo.output.density_map import draw_density, render_density
from seggeo.output.report_html_pictures import outline_tissue
from seggeo.output.report_html_records import Picture, SlideReport
from seggeo.run.finish import MERGED, provenance_of, write_json
from seggeo.run.outcome import Summary
from seggeo.run.part import PartReport
from seggeo.run.plan import Plan, output_identity, overview_image
from seggeo.run.profile import PROFILE, Profile
from seggeo.run.region_counts import count_regions
from seggeo.run.result import StoredResult, open_result
from seggeo.run.segment import segment_file
from seggeo.run.slides import Slide
from seggeo.run.suspects import Noticed, notice, pictures, suspects
from seggeo.store import publish

log = logging.getLogger(__name__)

COUNT_DEFAULTS: Mapping[str, Any] = {"tissue": "auto", "format": ("qupath", "cells", "ome-tiff")}
"""Settings of a count where the user chose no others."""
NOT_THE_SLIDES = frozenset({7, 75})
"""Exit codes of what is no slide's fault: no memory, no disk, or a stop. The next slide would fare no better."""
_KEPT = "count.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A slide's count."""

    slide: Slide
    row: Mapping[str, Any]
    """Its row in `counts.csv`."""
    report: SlideReport
    summary: Summary
    regions: tuple[Mapping[str, Any], ...] = ()
    """Its rows in `regions.csv`."""

    @property
    def profile(self) -> Profile | None:
        """Where the time went, if that was counted and there was something to do."""
        return self.summary.profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How slides are counted, besides what `Settings` say."""

    settings: Settings
    execution: Execution
    out: Path
    pixels: bool = False
    """Measure in pixels where the resolution is unknown, instead of refusing."""


def count_slide(slide: Slide, how: Counting) -> Generator[Plan | PartReport | Summary | Counted, None, None]:
    """Count the cells of one slide.

    Raises:
        SourceError: It cannot be read, or does not say its resolution.
        SeggeoError: Of the kind that fits.
    """
    if image_io.volume_kind(slide.path) is not None:
        raise SourceError(
            what=f"{slide.path} is a volume",
            why="its cells go through several slices, and are counted as objects of all of them",
            mend="use seggeo segment: its objects.csv has a row for each",
        )  # fmt: skip
    settings = of_slide(how.settings, slide)
    said: list[str] = []
    plan: Plan | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SeggeoWarning)
        for event in segment_file(slide.path, settings, how.execution, how.out, stem=slide.id):
            if isinstance(event, Plan):
                plan = event
                check_resolution(plan, slide.path, pixels=how.pixels)
            if isinstance(event, Summary):
                said = [str(w.message) for w in caught if issubclass(w.category, SeggeoWarning)]
            yield event
            if isinstance(event, Summary) and plan is not None:
                yield sum_up(plan, slide, event, how.out, said)
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def sum_up(plan: Plan, slide: Slide, summary: Summary, out: Path, said: Sequence[str] = ()) -> Counted:
    """The count of a slide that is segmented, made now or by an earlier run.

    Args:
        plan: What was done.
        slide: The slide.
        summary: What was found.
        out: Folder of the results.
        said: Warnings, for the report.
    """
    began = time.monotonic()
    counted = _kept(plan, slide, summary) or _counted(plan, slide, summary, (out, list(said)))
    if summary.profile is None:
        return counted
    profile = summary.profile.plus("write", time.monotonic() - began)
    write_json(Path(summary.work) / PROFILE, profile.to_json())
    report = replace(counted.report, time=profile.time_use())
    return replace(counted, report=report, summary=replace(summary, profile=profile))


def refusal_of(error: Exception) -> SeggeoError:
    """What is told of a slide that failed; raises what the next slide would not escape, either.

    Raises:
        SeggeoError: No memory, no disk, or a stop.
        MemoryError: As it is.
    """
    if isinstance(error, MemoryError) or (isinstance(error, SeggeoError) and error.exit_code in NOT_THE_SLIDES):
        raise error
    if isinstance(error, SeggeoError):
        return error
    log.debug("a slide failed\n%s", "".join(traceback.format_exception(error)))
    return SeggeoError(
        what=f"{type(error).__name__}: {' '.join(str(error).split())}", why="this is a bug in seggeo, met in this slide",
        mend="run it alone with seggeo --debug ... and report what it prints",
    )  # fmt: skip


def of_slide(settings: Settings, slide: Slide) -> Settings:
    """Settings with the resolution and regions that a manifest gives."""
    if slide.regions:
        settings = replace(settings, output=replace(settings.output, regions=Path(slide.regions)))
    if not slide.mpp:
        return settings
    try:
        mpp = float(slide.mpp)
    except ValueError as error:
        raise ConfigError(
            what=f"mpp {slide.mpp!r} of {slide.id}", why="it is a number of micrometres per pixel", mend="correct the manifest"
        ) from error
    return replace(settings, reading=replace(settings.reading, mpp=mpp))


def check_resolution(plan: Plan, path: str, *, pixels: bool) -> None:
    """Refuse a slide of unknown resolution, unless pixels will do.

    Raises:
        SourceError: It does not say its resolution.
    """
    if plan.job.frame.unit == "um" or pixels:
        return
    raise SourceError(
        what=f"{path} does not say how large its pixels are",
        why="densities per mm2 and sizes in um need it, and a guess would be wrong without anyone noticing",
        mend="add --mpp 0.25 (or a column mpp in a manifest), or count in pixels with --pixels",
    )


def _kept(plan: Plan, slide: Slide, summary: Summary) -> Counted | None:
    """The count of an earlier run of this very job."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = json.loads((Path(summary.work) / _KEPT).read_bytes())
        if values["key"] == _key(plan) and all(Path(p).exists() for p in values["files"]):
            row = _with_facts({**values["row"], "path": slide.path}, slide)
            report = SlideReport.from_json(values["report"])
            return Counted(slide=slide, row=row, report=report, summary=summary, regions=tuple(values["regions"]))
    return None


def _with_facts(row: Mapping[str, Any], slide: Slide) -> dict[str, Any]:
    """A row, and behind it what the manifest says; never in place of what was measured."""
    return {**row, **{name: value for name, value in slide.facts.items() if name not in row}}


def _key(plan: Plan) -> list[Any]:
    return [_SCHEMA, plan.job.merge_key, output_identity(plan.settings.output)]


def _counted(plan: Plan, slide: Slide, summary: Summary, told: tuple[Path, list[str]]) -> Counted:
    """Walk over the merged cells and sum them up; the map of density and the record for the report are made on the way."""
    out, said = told
    result = open_result(Path(summary.work) / MERGED, plan.job, provenance_of(plan.job))
    with image_io.open_source(slide.path, plan.settings.reading, native=False) as source:
        tissue = source.tissue.body if isinstance(source, MaskedSource) else plan.overview.valid
        noticed = notice(result)
        places = suspects(noticed, result.frame, tissue)
        drawn = pictures(places, source, plan.shown, result)
    cells = map_cells(result, tissue, _positives(plan, Path(summary.work)))
    density, positivity = density_of(cells), positivity_of(cells)
    thumbnail = np.ascontiguousarray(_thumbnail(plan))
    heat = draw_density(cells, thumbnail, result.frame, out / f"{slide.id}_density.png", slide.id, tissue)
    row = _row(slide, summary, (plan, cells, noticed), (density, positivity))
    report = SlideReport(
        name=slide.id, count=result.count, density=density, positivity=positivity,
        classes=_classes(result, cells) if len(result.classes) > 1 else {}, sizes=tuple(int(n) for n in cells.sizes),
        size_unit=cells.unit, tissue=Picture.of(outline_tissue(thumbnail, tissue), "tissue"),
        density_map=Picture.of(render_density(cells, thumbnail, result.frame, None, tissue, inches=4), "cells per mm2"),
        suspicious=tuple(drawn), facts=_facts(plan, summary, noticed, cells), warnings=tuple(dict.fromkeys(said)),
        files={**{kind: Path(p).name for kind, p in summary.outputs.items()}, "density": heat.name},
    )  # fmt: skip
    files = [*summary.outputs.values(), str(heat)]
    regions = _regions(plan, slide, result)
    kept = {"key": _key(plan), "row": row, "report": report.to_json(), "regions": regions, "files": files}
    publish(Path(summary.work) / _KEPT, json.dumps(kept).encode())
    return Counted(slide=slide, row=_with_facts(row, slide), report=report, summary=summary, regions=tuple(regions))


def _regions(plan: Plan, slide: Slide, result: StoredResult) -> list[dict[str, Any]]:
    path = plan.settings.output.regions
    if path is None:
        return []
    return [{"id": slide.id, **row} for row in count_regions(result, read_regions(path, result.frame))]


def _positives(plan: Plan, work: Path) -> Extras:
    """Which cells are positive, as the run has found."""
    column = work / MERGED / "positive.npy"
    if plan.settings.output.positive is None or not column.exists():
        return Extras()
    return Extras(columns={"positive": np.load(column, mmap_mode="r")}, positive="positive")


def _thumbnail(plan: Plan) -> NDArray[np.uint8]:
    """The slide in small; glass white in brightfield, not black."""
    image = np.array(overview_image(plan))
    light = bool(image[plan.overview.valid].mean() > 96) if plan.overview.valid.any() else False
    image[~plan.overview.valid] = 255 if light else 0
    return image


def _row(
    slide: Slide, summary: Summary, found: tuple[Plan, CellMap, Noticed], stated: tuple[Density | None, Ratio | None]
) -> dict[str, Any]:  # fmt: skip
    (plan, cells, noticed), (density, positivity) = found, stated
    frame, total = plan.job.frame, max(1, summary.objects)
    pixel = frame.spacing[1] * frame.spacing[2]
    row: dict[str, Any] = {
        "id": slide.id, "path": slide.path, "cells": summary.objects, "cells_in_tissue": cells.count,
        "tissue_mm2": density and round(density.area_mm2, 6), "per_mm2": density and round(density.per_mm2.value, 3),
        "per_mm2_low": density and round(density.per_mm2.low, 3), "per_mm2_high": density and round(density.per_mm2.high, 3),
        f"median_area_{cells.unit}": None if not summary.objects else round(noticed.median_area * pixel, 3),
    }  # fmt: skip
    if positivity is not None:
        row |= {
            "positive": positivity and round(positivity.value, 6), "positive_low": round(positivity.low, 6),
            "positive_high": round(positivity.high, 6),
        }  # fmt: skip
    names = plan.job.model["classes"]
    if len(names) > 1:
        row |= {f"cells_{name}": int(n) for name, n in zip(names, cells.counts.sum(axis=(1, 2)), strict=True)}
    return row | {
        "mpp": round(frame.spacing[1] / frame.scale, 6) if frame.unit == "um" else None,
        "work_mpp": round(frame.spacing[1], 6) if frame.unit == "um" else None, "model": summary.model,
        "at_seams": round(noticed.at_seams / total, 6), "cut": round(int(noticed.cut.sum()) / total, 6), "tiles": summary.tiles,
        "empty_tiles": summary.empty_tiles, "capped_tiles": summary.capped_tiles, "failed_tiles": summary.failed_tiles,
    }  # fmt: skip


def _classes(result: StoredResult, cells: CellMap) -> dict[str, int]:
    return {name: int(n) for name, n in zip(result.classes, cells.counts.sum(axis=(1, 2)), strict=True)}


def _facts(plan: Plan, summary: Summary, noticed: Noticed, cells: CellMap) -> dict[str, str]:
    """Lines for people."""
    frame, total = plan.job.frame, max(1, summary.objects)
    model = (plan.job.choice or {}).get("model") or summary.model
    facts = {"model": str(model)}
    if plan.job.choice is not None:
        facts["chosen because"] = str(plan.job.choice["why"])
    if sized := plan.job.model["settings"].get("sized"):
        facts["size"] = str(sized)
    if frame.unit == "um":
        facts["um per px"] = f"{frame.spacing[1] / frame.scale:.4g}, worked at {frame.spacing[1]:.4g}"
    facts |= {
        "tiles": f"{summary.tiles} ({summary.empty_tiles} empty, {summary.capped_tiles} at the model's limit, "
        f"{summary.failed_tiles} failed)",
        "cells at seams": f"{noticed.at_seams / total:.1%} ({int(noticed.cut.sum()) / total:.2%} joined from pieces)",
        "cells outside tissue": f"{cells.outside}",
    }
    return facts
