"""The run folder: job.json, one checksummed file per part, and what failed.

A part is done when its file exists under its final name with a valid checksum. Files are written under a temporary
name in the same folder, synced and renamed; no locks, no clocks, no database. Two writers of one part write the same
bytes and the rename decides.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import OutputError, SourceError, StoreError
from seggeo.files import claim, holds_files, publishing, remove_leftovers, translated
from seggeo.instances import Instances
from seggeo.job import Job, differences

Arrays = Mapping[str, NDArray[Any]]
_DIGEST_BYTES = 32
_PARTS = ("parts/*/*.part", "parts/*/*.begun")
_FOLDER = 1000
"""Part files in one folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one block of tiles reported."""

    part: int
    instances: Instances
    """Work-grid pixels, grouped by tile."""
    tile: NDArray[np.int64]
    """Tile index of each instance, ascending."""
    notes: Mapping[str, Any]
    """Counts and failures of the part's tiles: JSON values that do not depend on when or where it ran."""


class RunStore:
    """The folder of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, job: Job, *, overwrite: bool = False) -> None:
        """Create the folder for a job, or continue in it when it holds the same job.

        Raises:
            OutputError: The folder holds another job, or something that is not a run folder, or cannot be written.
        """
        path, data = self.folder / "job.json", sealed(job.to_json())
        with translated(path):
            if not path.exists() and holds_files(self.folder) and not path.exists():  # another process may just have begun it
                raise OutputError(
                    what=f"{self.folder} is not a run folder",
                    why="it holds files but no job.json, and seggeo does not delete what it did not make",
                    mend="use another --work folder",
                )
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, deep=True)
        if not path.exists() and claim(path, data):
            return
        old, new = _prediction_values(self.load_job_values()), _prediction_values(job.to_json())
        if old != new:
            if not overwrite:
                raise OutputError(
                    what=f"{self.folder} belongs to another job",
                    why="; ".join(differences(old, new)[:6]),
                    mend="use another --work folder, or --overwrite to throw its tiles away",
                )
            with translated(path):
                self.discard()
        publish(path, data)

    def load_job_values(self) -> dict[str, Any]:
        """The job.json of the folder.

        Raises:
            SourceError: There is none.
            StoreError: It is damaged.
        """
        path = self.folder / "job.json"
        try:
            return unsealed(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceError(
                what=f"{self.folder} is no run folder",
                why=f"it has no {path.name}" if self.folder.is_dir() else "there is no such folder",
                mend="give the folder that a run left beside its outputs (scene.seggeo)",
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(
                what=f"{path} cannot be read", why=str(error), mend="start again with another run folder"
            ) from error

    def part_path(self, part: int) -> Path:
        """Final name of a part's file."""
        return self.folder / "parts" / f"{part // _FOLDER:04d}" / f"{part:06d}.part"

    def save(self, part: Part) -> Path:
        """Write one part under its final name."""
        path = publish(self.part_path(part.part), _packed(part))
        self.begun_path(part.part).unlink(missing_ok=True)
        return path

    def begun_path(self, part: int) -> Path:
        """Name of what a stopped run has done of a part."""
        return self.part_path(part).with_suffix(".begun")

    def save_begun(self, part: Part) -> Path:
        """Write the first tiles of a part, so that whoever goes on need not repeat them."""
        return publish(self.begun_path(part.part), _packed(part))

    def load_begun(self, part: int) -> Part | None:
        """What `save_begun` wrote; None where there is nothing whole."""
        with suppress(OSError, ValueError):
            return _unpacked(part, self.begun_path(part).read_bytes())
        return None

    def load(self, part: int) -> Part:
        """Read one part.

        Raises:
            StoreError: It is missing or its checksum does not fit.
        """
        path = self.part_path(part)
        try:
            return _unpacked(part, path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(
                what=f"part {part} cannot be read from {path}",
                why=str(error),
                mend="run the same command again: it is made anew",
            ) from error

    def is_done(self, part: int) -> bool:
        """True when the part's file is whole and none of its tiles failed."""
        path = self.part_path(part)
        try:
            notes = read_notes(path)
        except (OSError, ValueError):
            return False
        return not notes.get("failures")

    def discard(self) -> None:
        """Remove everything this store wrote, and nothing else; what says that it is one goes last."""
        for pattern in (*_PARTS, "merged/*", "report.json", "failures.jsonl", "merge.lock", "task.json", "job.json"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _packed(part: Part) -> bytes:
    i = part.instances
    arrays: dict[str, NDArray[Any]] = {
        "box": i.box, "z": i.z, "label": i.label, "score": i.score, "runs": i.runs, "start": i.start, "tile": part.tile,
    }  # fmt: skip
    return pack(arrays, {"part": part.part, **part.notes})


def _unpacked(part: int, data: bytes) -> Part:
    arrays, notes = unpack(data)
    tile = arrays.pop("tile")
    return Part(part=part, instances=Instances(**arrays), tile=tile, notes=notes)


def _prediction_values(values: Mapping[str, Any]) -> dict[str, Any]:
    source = {k: v for k, v in values.get("source", {}).items() if k != "path"}
    return {**{k: v for k, v in values.items() if k not in ("merge", "choice")}, "source": source}


def pack(arrays: Arrays, notes: Mapping[str, Any]) -> bytes:
    """Arrays and JSON notes as bytes that end in their own sha256."""
    entries, blobs, offset = [], [], 0
    for name, array in arrays.items():
        blob = np.ascontiguousarray(array).tobytes()
        entries.append([name, array.dtype.str, list(array.shape), offset, len(blob)])
        blobs.append(blob)
        offset += len(blob)
    header = json.dumps({"arrays": entries, "notes": notes}, sort_keys=True).encode()
    body = b"".join([struct.pack("<Q", len(header)), header, *blobs])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `pack` packed.

    Raises:
        ValueError: The bytes are not whole.
    """
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) < _DIGEST_BYTES + 8 or hashlib.sha256(body).digest() != digest:
        raise ValueError("its checksum does not fit its bytes")
    (length,) = struct.unpack("<Q", body[:8])
    header = json.loads(body[8 : 8 + length])
    base = 8 + length
    arrays = {
        name: np.frombuffer(body, dtype, int(np.prod(shape)), base + offset).reshape(shape)
        for name, dtype, shape, offset, _ in header["arrays"]
    }
    return arrays, header["notes"]


def read_notes(path: Path) -> dict[str, Any]:
    """The notes of a packed file, after its checksum was verified.

    Raises:
        OSError: It is not there.
        ValueError: It is not whole.
    """
    return unpack(path.read_bytes())[1]


def sealed(values: Mapping[str, Any]) -> bytes:
    """JSON for people to read, with a sha256 of itself: one changed character could make it mean another job."""
    return (json.dumps({**values, "sha256": _seal(values)}, indent=1, sort_keys=True) + "\n").encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """What `sealed` sealed.

    Raises:
        ValueError: It is not what was written.
    """
    values = json.loads(data)
    if not isinstance(values, dict) or values.pop("sha256", None) != _seal(values):
        raise ValueError("it is not as it was written: its checksum does not fit")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_chunks(path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Array sets appended to one file with `append_chunk`."""
    with path.open("rb") as stream:
        while size := stream.read(8):
            yield unpack(stream.read(struct.unpack("<Q", size)[0]))[0]


def append_chunk(path: Path, arrays: Arrays) -> None:
    """Append one array set to a spool file."""
    data = pack(arrays, {})
    with path.open("ab") as stream:
        stream.write(struct.pack("<Q", len(data)))
        stream.write(data)


def publish(path: Path, data: bytes) -> Path:
    """Write a whole file under its final name or not at all.

    Raises:
        ResourceError: The disk is full.
        OutputError: The folder cannot be written.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with publishing(path) as temporary:
        temporary.write_bytes(data)
    return path
