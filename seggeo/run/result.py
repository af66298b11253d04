"""Merged objects on disk: spooled as they leave the sweep, then put in order and numbered, read back in batches.

1. `Spool.add` appends each batch to the files of the bands of rows that its objects start in.
2. `Spool.number` sorts one band at a time by (z, row, col, area), drops what is too small, and gives ids.
3. Of a volume `linking.link_bands` then gives those of one object through the slices the same id.
4. `StoredResult` reads the numbered bands; it is the `Result` that sinks pull from.

A band is a few hundred rows, so memory is bounded however many objects there are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Merge
from seggeo.errors import StoreError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, Objects, concat
from seggeo.job import Job
from seggeo.merge.sweep import Merged
from seggeo.store import append_chunk, publish, read_chunks

BAND_ROWS = 512
_INDEX = "bands.json"
_COLUMNS = ("n_tiles", "cut", "touches_edge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One file of numbered objects, of one slice."""

    path: Path
    z: int
    first_row: int
    last_row: int
    """One past the lowest row of any of its objects."""
    count: int


class Spool:
    """Objects on their way to disk; the folder is emptied first."""

    def __init__(self, folder: Path, frame: Frame) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._bands_per_slice = -(-frame.height // BAND_ROWS)
        self._is_volume = frame.depth > 1

    def add(self, merged: Merged) -> None:
        """Append a batch."""
        box, z = merged.instances.box, merged.instances.z.astype(np.int64)
        band = z * self._bands_per_slice + box[:, 0] // BAND_ROWS
        for number in np.unique(band):
            which = np.flatnonzero(band == number)
            columns = {name: getattr(merged, name)[which] for name in _COLUMNS}
            append_chunk(self._folder / f"{number:09d}.spool", {**_arrays(merged.instances.take(which)), **columns})

    def number(self, rules: Merge) -> tuple[list[Band], int]:
        """Sort, filter and number everything; the bands in order and how many objects were filtered out.

        Cross-sections of a volume are not filtered: whether an object is too small is seen when all of it is known.
        """
        bands, next_id, dropped = [], 1, 0
        for path in sorted(self._folder.glob("*.spool")):
            chunks = list(read_chunks(path))
            instances = concat([_instances(chunk) for chunk in chunks])
            columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in _COLUMNS}
            area = instances.area
            order = np.lexsort((instances.label, -area, instances.box[:, 1], instances.box[:, 0], instances.z))
            if not self._is_volume:
                order = order[(area[order] >= rules.min_area) & (instances.score[order] >= rules.min_score)]
            dropped += len(area) - len(order)
            path.unlink()
            if len(order):
                ids = np.arange(next_id, next_id + len(order), dtype=np.uint32)
                bands.append(self._write(path, instances.take(order), {n: c[order] for n, c in columns.items()}, ids))
                next_id += len(order)
        return bands, dropped

    def publish(self, bands: list[Band], linking: Mapping[str, Any] | None = None) -> None:
        """Leave a list of the numbered bands, and what linking slices did, by which `open_result` finds them."""
        listed = [{**asdict(band), "path": band.path.name} for band in bands]
        publish(self._folder / _INDEX, json.dumps({"bands": listed, "linking": linking or {}}).encode())

    def _write(self, path: Path, instances: Instances, columns: Mapping[str, NDArray[Any]], ids: NDArray[np.uint32]) -> Band:
        return write_band(path.with_suffix(".objects"), Objects(instances=instances, id=ids, **columns))


def write_band(path: Path, objects: Objects) -> Band:
    """Write numbered objects of one slice, at least one, to a file of their own."""
    columns = {name: getattr(objects, name) for name in (*_COLUMNS, "id")}
    append_chunk(path, {**_arrays(objects.instances), **columns})
    box = objects.instances.box
    return Band(
        path=path, z=int(objects.instances.z[0]), first_row=int(box[:, 0].min()), last_row=int(box[:, 2].max()),
        count=len(objects),
    )  # fmt: skip


def _arrays(i: Instances) -> dict[str, NDArray[Any]]:
    return {"box": i.box, "z": i.z, "label": i.label, "score": i.score, "runs": i.runs, "start": i.start}


def _instances(chunk: Mapping[str, NDArray[Any]]) -> Instances:
    return Instances(**{name: chunk[name] for name in ("box", "z", "label", "score", "runs", "start")})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A finished merge; satisfies `protocols.Result`."""

    frame: Frame
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    exclusive: bool
    bands: Mapping[int, tuple[Band, ...]]
    """Of every slice that has objects, ascending."""
    linking: Mapping[str, Any]

    @property
    def count(self) -> int:
        """All objects."""
        if self.linking:
            return int(self.linking["objects"])
        return sum(band.count for bands in self.bands.values() for band in bands)

    def iter_objects(self) -> Iterator[Objects]:
        """All objects, one band at a time; of an image in ascending order of id, of a volume slice by slice."""
        return (read_band(band) for bands in self.bands.values() for band in bands)

    def in_window(self, window: Window, z: int = 0) -> Objects:
        """The objects whose boxes meet a window, masks uncut."""
        found = []
        for band in self.bands.get(z, ()):
            if band.first_row < window.row_stop and band.last_row > window.row:
                objects = read_band(band)
                box = objects.instances.box
                meets = (box[:, 0] < window.row_stop) & (box[:, 2] > window.row)
                meets &= (box[:, 1] < window.col_stop) & (box[:, 3] > window.col)
                found.append(take(objects, np.flatnonzero(meets)))
        return _join(found)


def open_result(folder: Path, job: Job, provenance: Mapping[str, Any]) -> StoredResult:
    """The result of an earlier merge.

    Raises:
        StoreError: The folder holds none.
    """
    try:
        listed = json.loads((folder / _INDEX).read_bytes())
        bands = [Band(**{**band, "path": folder / band["path"]}) for band in listed["bands"]]
        linking = dict(listed["linking"])
        if not all(band.path.exists() for band in bands):
            raise ValueError("some of its files are gone")  # noqa: TRY301 - one place tells the user
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            what=f"{folder} holds no merged objects", why=str(error), mend="run the same command again with --overwrite"
        ) from error
    return StoredResult(
        frame=job.frame, classes=tuple(job.model["classes"]), provenance=provenance,
        exclusive=bool(job.model["exclusive"]), bands=by_slice(bands), linking=linking,
    )  # fmt: skip


def by_slice(bands: Iterable[Band]) -> dict[int, tuple[Band, ...]]:
    """The bands of every slice, in order."""
    return {z: tuple(of_one) for z, of_one in groupby(bands, key=lambda band: band.z)}


def read_band(band: Band) -> Objects:
    """The objects of one file."""
    (chunk,) = read_chunks(band.path)
    return Objects(instances=_instances(chunk), id=chunk["id"], **{name: chunk[name] for name in _COLUMNS})


def take(objects: Objects, which: NDArray[np.int64]) -> Objects:
    """The picked objects, in that order."""
    columns = {name: getattr(objects, name)[which] for name in ("id", *_COLUMNS)}
    return Objects(instances=objects.instances.take(which), **columns)


def _join(batches: list[Objects]) -> Objects:
    dtypes = {"id": np.uint32, "n_tiles": np.int32, "cut": np.bool_, "touches_edge": np.bool_}
    columns = {
        name: np.concatenate([np.zeros(0, dtype), *(getattr(b, name) for b in batches)]) for name, dtype in dtypes.items()
    }
    return Objects(instances=concat([b.instances for b in batches]), **columns)
