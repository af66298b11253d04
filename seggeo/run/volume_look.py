"""What a user looks at first of a volume's result: the montage of its slices and the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.config import to_json
from seggeo.errors import ConfigError
from seggeo.io.volume import VolumeSource
from seggeo.output.montage import draw_montage
from seggeo.output.report_html_time import TimeUse
from seggeo.output.volume_objects import iter_rows, read_rows
from seggeo.output.volume_report import VolumeSummary, write_volume_report
from seggeo.run.naming import Places
from seggeo.run.plan import Plan
from seggeo.run.result import StoredResult

_SLICE_PX = 600
"""Longest side of a slice in the montage, about."""


def write_montage(plan: Plan, path: str, result: StoredResult, where: Places) -> Path:
    """Slices with their objects as a PNG, in the job's stretch, or the one of previews where the model takes native values.

    Raises:
        SourceError: The volume cannot be read.
    """
    with _shown(path, plan) as source:

        def picture(z: int) -> NDArray[np.uint8]:
            image = image_io.apply_stretch(plan.shown, source.slice_overview(z, _SLICE_PX))
            return np.ascontiguousarray(image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2))

        drawn: Path = draw_montage(result, picture, where.preview)
        return drawn


def write_report(plan: Plan, result: StoredResult, where: Places, time: TimeUse | None = None) -> Path:
    """The report, from the table of objects where that was written, and where the time went."""
    table = where.outputs.get("objects")
    rows = read_rows(table) if table is not None else iter_rows(result, folder=where.work)
    chosen = to_json(plan.settings)
    flat = {**chosen, **chosen.pop("reading"), **chosen.pop("tiling"), **chosen.pop("merge"), **chosen.pop("output")}
    kept = {name: value for name, value in flat.items() if not isinstance(value, dict)}
    settings = {name: _text(value) for name, value in kept.items() if value not in (None, "", False)}
    summary = VolumeSummary(
        title=Path(str(plan.job.source["path"])).name, facts=_facts(plan.source),
        settings={"model": str(plan.job.model["name"]), **settings}, warnings=tuple(plan.source.get("warnings", ())),
        files={kind: file.name for kind, file in where.outputs.items()}, time=time,
    )  # fmt: skip
    written: Path = write_volume_report(result, where.report, rows=rows, montage=where.preview, summary=summary)
    return written


def _facts(source: Any) -> dict[str, str]:
    """What the report says of the input."""
    shape = " x ".join(str(source[name]) for name in ("depth", "height", "width"))
    spacing = " x ".join(f"{step:.4g}" for step in source["spacing"])
    return {
        "format": str(source["driver"]), "voxels": f"{shape} ({', '.join(source['axes'])}), {source['dtype']}",
        "spacing": f"{spacing} {source['unit']}", "sliced along": str(source["sliced_along"]),
        "channels": ", ".join(source["channels"]), "read": ", ".join(source["read_bands"]),
        **({"space": str(source["space"])} if source["space"] else {}),
        **({"missing slices": _text(source["missing_slices"])} if source["missing_slices"] else {}),
    }  # fmt: skip


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shown(path: str, plan: Plan) -> VolumeSource:
    """The volume in the bands that are shown: as RGB, where they make that."""
    source = None
    with suppress(ConfigError):
        source = image_io.open_source(path, plan.settings.reading, native=False)
    opened = source or image_io.open_source(path, plan.settings.reading, native=True)
    assert isinstance(opened, VolumeSource)  # noqa: S101 - the caller asked whether it is one
    return opened
