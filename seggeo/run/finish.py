"""From parts to files: merge, number, write every output, draw the preview, leave the provenance beside them."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo import plugins
from seggeo.config import Merge, Output
from seggeo.errors import BusyError, StoreError
from seggeo.files import translated
from seggeo.instances import Instances, concat
from seggeo.job import Job
from seggeo.merge.resolve import Tally
from seggeo.merge.sweep import sweep
from seggeo.output.cells_table import Extras
from seggeo.protocols import SinkOptions
from seggeo.run.enrich import TABLES
from seggeo.run.linking import link_bands
from seggeo.run.naming import Places
from seggeo.run.result import Spool, StoredResult, open_result
from seggeo.store import RunStore, publish

log = logging.getLogger(__name__)

MERGED = "merged"
"""Folder of the merged objects in a run folder."""


def merge_parts(
    job: Job, store: RunStore, folder: Path, provenance: Mapping[str, Any], *, absent: frozenset[int] = frozenset()
) -> tuple[StoredResult, Tally, int]:  # fmt: skip
    """Merge all stored parts into numbered objects; the result, what became of the readings, objects filtered out.

    Args:
        job: Whose parts they are.
        store: Its run folder.
        folder: Where the merged objects are put; emptied first.
        provenance: What the result says about itself.
        absent: Parts that are known to be missing, where nothing was found.

    Raises:
        StoreError: Another part is missing, or is of another job.
    """
    rules = Merge(**job.merge)
    tally = Tally()
    spool = Spool(folder, job.frame)
    for merged in sweep(
        _parts(job, store, absent), job.parts, match_iou=rules.match_iou, exclusive=bool(job.model["exclusive"])
    ):
        spool.add(merged)
        tally = tally + merged.tally
    bands, dropped = spool.number(rules)
    linking: Mapping[str, Any] = {}
    if job.frame.depth > 1:
        bands, linking, dropped = link_bands(folder, bands, rules)
    spool.publish(bands, linking)
    return open_result(folder, job, provenance), tally, dropped


def _parts(job: Job, store: RunStore, absent: frozenset[int]) -> Iterator[tuple[int, Instances, NDArray[np.int64]]]:
    tile_key = job.tile_key
    for part in range(len(job.parts)):
        if part in absent:
            yield part, concat([]), np.zeros(0, np.int64)
            continue
        stored = store.load(part)
        if stored.notes.get("tile_key", tile_key) != tile_key:
            raise StoreError(
                what=f"part {part} in {store.folder} is of another job", why="two jobs were run in one folder at a time",
                mend="predict it again, with the same command, and run one job at a time in a folder",
            )  # fmt: skip
        yield part, stored.instances, stored.tile


def write_outputs(
    result: StoredResult, output: Output, where: Places, extras: Extras | None = None, *, source: str | None = None
) -> list[Path]:  # fmt: skip
    """Every asked output under its final name; tables get `extras`, formats that refer to the input `source`."""
    is_file = source is not None and "://" not in source
    options = SinkOptions(simplify_m=output.simplify, source=Path(source) if source is not None and is_file else None)
    written = []
    for name, path in where.outputs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = plugins.load("seggeo.sinks", name)
        more = {"extras": extras} if extras is not None and name in TABLES else {}
        written.append(sink(result, path, options, **more))
        log.info("wrote %s", path)
    return written


def write_preview(result: StoredResult, image: NDArray[np.uint8], valid: NDArray[np.bool_], where: Places) -> Path:
    """The picture beside the result."""
    from seggeo.output.preview import draw_preview

    path: Path = draw_preview(result, image, where.preview, valid=valid)
    return path


def provenance_of(job: Job) -> dict[str, Any]:
    """What made a result: enough to make it again.

    No times, no machine, no number of workers, so that equal jobs write equal bytes; the input goes by its file name,
    since results travel.
    """
    packages = ("seggeo", "numpy", "rasterio", "torch", "torchvision", "segment-anything")
    source = {k: v for k, v in job.source.items() if k != "mtime_ns"}
    named = replace(job, source={**source, "path": Path(str(job.source["path"])).name})
    return {"job": named.to_json(), "tile_key": job.tile_key, "versions": {p: version(p) for p in packages}}


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """A JSON file, whole or not at all."""
    return publish(path, (json.dumps(values, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder's merge; the lock goes with the process that holds it.

    Raises:
        BusyError: Another process holds it.
        OutputError: The folder cannot be written.
        ResourceError: The disk is full.
    """
    lock = folder / "merge.lock"
    with translated(lock):
        opened = lock.open("w")
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                what=f"another process is merging {folder}", why="a result has one writer",
                mend="wait for it to end, or choose another --work folder",
            ) from error  # fmt: skip
        yield
