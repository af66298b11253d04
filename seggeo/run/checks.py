"""Refusals before any work: of formats that do not exist and of files that would be written over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from seggeo import plugins
from seggeo.config import Execution, Settings
from seggeo.errors import OutputError, ResourceError, SourceError, StoreError
from seggeo.files import translated
from seggeo.output import masks, meshes, ome_zarr
from seggeo.run.naming import Places
from seggeo.run.plan import Plan
from seggeo.store import RunStore, read_json

_FOLDERS = (ome_zarr.is_ours, masks.is_ours, meshes.is_ours)
"""Each knows the folders that one sink made, which may be replaced as a whole; nobody else's may."""


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
    pictures = [where.preview] if plan.settings.output.preview else []
    if plan.settings.output.preview and plan.job.frame.placement is not None:
        pictures.append(where.report)
    for path in (*where.outputs.values(), *pictures, where.provenance):
        with translated(path):
            _check_output(path, plan)
            if path.exists() and not (execution.overwrite or _is_ours(where, plan)):
                raise OutputError(
                    what=f"{path} exists already",
                    why="seggeo does not write over files unless told to",
                    mend="use --overwrite, or another name with -o",
                )
    if where.work.exists() and not where.work.is_dir():
        raise OutputError(
            what=f"{where.work} is not a folder", why="finished tiles are kept there", mend="choose another --work"
        )


def check_room(out: Path, work: Path, need_bytes: int) -> None:
    """Refuse to begin where the results would not fit, with a fifth to spare; half of them are taken for finished tiles.

    Args:
        out: Folder of the outputs.
        work: Run folder, or the batch's.
        need_bytes: What they will take together.

    Raises:
        ResourceError: A disk has less.
    """
    needs: dict[int, tuple[Path, float]] = {}
    for folder in map(_existing, (out, work)):
        device = os.stat(folder).st_dev
        needs[device] = (folder, needs.get(device, (folder, 0.0))[1] + 0.6 * need_bytes)
    for folder, need in needs.values():
        free = shutil.disk_usage(folder).free
        if free < need:
            raise ResourceError(
                what=f"{folder} has {free / 1e6:.0f} MB of free space", why=f"the results may take {need / 1e6:.0f} MB there",
                mend="free some space, name other folders with -o and --work, or try all the same with --no-check-space",
            )  # fmt: skip


def _check_output(path: Path, plan: Plan) -> None:
    for kind, source in (
        ("input", plan.job.source["path"]),
        ("AOI", plan.job.reading["aoi"]),
        ("weights", plan.request.weights),
    ):
        if source is not None and _lies_in(str(source), path):
            raise OutputError(
                what=f"{path} would be written over",
                why=f"it is the {kind} of this very job",
                mend="choose another name with -o",
            )
    if path.is_dir() and not any(is_ours(path) for is_ours in _FOLDERS):
        raise OutputError(
            what=f"{path} is a folder", why="an output of that name is to be written", mend="choose another name with -o"
        )
    if not _can_write(path.parent):
        raise OutputError(
            what=f"{path.parent} cannot be written to", why="the system refuses it", mend="choose another place with -o"
        )


def _lies_in(source: str, path: Path) -> bool:
    """True for an input that is `path`, or part of a folder `path`."""
    inner, outer = os.path.realpath(source), os.path.realpath(path)
    return inner == outer or inner.startswith(outer + os.sep)


def _is_ours(where: Places, plan: Plan) -> bool:
    """True when outputs that exist are this very job's: those of a run that was killed, or goes on meanwhile, or has ended."""
    # In this order: a run that ends between the two looks has written its provenance before its report.
    return _is_unfinished(where, plan) or read_json(where.provenance).get("merge_key") == plan.job.merge_key


def _is_unfinished(where: Places, plan: Plan) -> bool:
    """True when the run folder holds this very job without a report: an output there is its own, from before a kill."""
    try:
        there = RunStore(where.work).load_job_values()
    except (SourceError, StoreError):
        return False
    is_same = {**there, "choice": None} == {**plan.job.to_json(), "choice": None}  # named or chosen, it is one job
    return is_same and not (where.work / "report.json").exists()


def _existing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _can_write(folder: Path) -> bool:
    folder = _existing(folder)
    return folder.is_dir() and os.access(folder, os.W_OK)
