"""One input's work, frozen in its run folder: all that any process needs to predict a part of it or to finish it.

`job.json` says what decides the result, `task.json` beside it where things are: the input, the outputs and the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seggeo.config import Execution, Settings, field_names, settings_from, to_json
from seggeo.errors import StoreError
from seggeo.job import Job
from seggeo.protocols import ModelRequest
from seggeo.run.naming import Places, places, target_of, target_text
from seggeo.run.part import Recipe
from seggeo.run.plan import Plan, reopened
from seggeo.store import RunStore, publish, sealed, unsealed

_FILE = "task.json"
_SCHEMA = 1
_PATHS = ("aoi", "weights", "regions")
"""Settings that are paths; more than a name in JSON once they are absolute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `task.json` and `job.json` of a run folder say."""

    folder: Path
    path: str
    """The input: an absolute path, or an address."""
    stem: str
    """Begins the names of its outputs."""
    out: Path | None
    """What was given with `-o`, absolute."""
    settings: Settings
    """As the plan settled them."""
    request: ModelRequest
    job: Job
    slide: Mapping[str, Any] = field(default_factory=dict)
    """Of a count: what the manifest says of the slide."""

    @property
    def where(self) -> Places:
        """Where its files go."""
        return places(self.out, self.stem, self.settings.output.format, self.folder)

    def recipe(self, execution: Execution, threads: int) -> Recipe:
        """How a process opens input and model, on the device of this machine."""
        request = replace(self.request, device=execution.device, batch=execution.batch)
        return Recipe(path=self.path, reading=self.settings.reading, job=self.job, request=request, threads=threads)

    def plan(self) -> Plan:
        """The plan it was made from, with the image's overview read anew.

        Raises:
            SourceError: The input is gone or has changed.
        """
        return reopened(self.path, self.settings, self.request, self.job)


def freeze(plan: Plan, path: str, out: Path | None, stem: str, store: RunStore, slide: Mapping[str, Any]) -> Task:
    """Write a plan into an open run folder."""
    task = Task(
        folder=store.folder, path=path if "://" in path else os.path.abspath(path), stem=stem,
        out=None if out is None else out.absolute(), settings=_absolute(plan.settings), request=plan.request, job=plan.job,
        slide=slide,
    )  # fmt: skip
    values = {
        "schema": _SCHEMA, "path": task.path, "stem": stem, "out": None if task.out is None else target_text(task.out),
        "settings": _flat(task.settings), "request": to_json(plan.request), "slide": to_json(slide),
    }  # fmt: skip
    publish(store.folder / _FILE, sealed(values))
    return task


def load_task(folder: Path) -> Task:
    """The task of a run folder.

    Raises:
        SourceError: There is none.
        StoreError: It is damaged or of another version.
    """
    job = Job.from_json(RunStore(folder).load_job_values())
    path = folder / _FILE
    try:
        values = _current(unsealed(path.read_bytes()))
        request = ModelRequest(**{**values["request"], "weights": _path(values["request"]["weights"])})
        return Task(
            folder=folder, path=values["path"], stem=values["stem"],
            out=None if values["out"] is None else target_of(values["out"]),
            settings=_settings(values["settings"]), request=request, job=job, slide=values["slide"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(what=f"{path} cannot be read", why=str(error), mend="plan the job again in another folder") from error


def _current(values: dict[str, Any]) -> dict[str, Any]:
    if values["schema"] != _SCHEMA:
        raise ValueError(f"it is of version {values['schema']}, and this seggeo reads {_SCHEMA}")
    return values


def _absolute(settings: Settings) -> Settings:
    """Settings whose paths mean the same from any folder."""
    reading, output = settings.reading, settings.output
    tissue = reading.tissue if reading.tissue in ("auto", "none") else os.path.abspath(reading.tissue)
    reading = replace(reading, aoi=reading.aoi and reading.aoi.absolute(), tissue=tissue)
    return replace(settings, reading=reading, output=replace(output, regions=output.regions and output.regions.absolute()))


def _flat(settings: Settings) -> dict[str, Any]:
    nested = ("reading", "tiling", "merge", "output")
    records = (settings, *(getattr(settings, name) for name in nested))
    return {f.name: to_json(getattr(r, f.name)) for r in records for f in fields(r) if f.name not in nested}


def _settings(values: Mapping[str, Any]) -> Settings:
    """What `_flat` flattened: lists are tuples again and paths paths."""
    known = {name for kind in _kinds() for name in field_names(kind)}
    chosen = {name: _value(name, value) for name, value in values.items() if name in known}
    return settings_from(chosen)[0]


def _kinds() -> tuple[type, ...]:
    from seggeo.config import Merge, Output, Reading, Tiling

    return (Settings, Reading, Tiling, Merge, Output)


def _value(name: str, value: Any) -> Any:
    if name in _PATHS:
        return _path(value)
    return tuple(value) if isinstance(value, list) else value


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)
