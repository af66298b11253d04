"""The folder of a training: what lies in it, whether it is this training's, and who may write there.

`recipe.json` says what was asked, with hashes of the data; `state.pt` is what to go on from; `history.jsonl` has a line for
each validation; `model.safetensors` are the averaged weights of the best, `report.png` the curves, `examples.png` judged
images. Nothing else in the folder is ever touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seggeo.errors import BusyError, ConfigError, OutputError, SourceError
from seggeo.files import publishing, remove_leftovers, translated
from seggeo.train.examples import Example
from seggeo.train.files import files_of

RECIPE, STATE, HISTORY, WEIGHTS = "recipe.json", "state.pt", "history.jsonl", "model.safetensors"
CURVES, PICTURES = "report.png", "examples.png"
FILES = (RECIPE, STATE, HISTORY, WEIGHTS, CURVES, PICTURES)
"""Everything that a training writes."""
_PARTS = {
    ".shp": (".dbf", ".prj"), ".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz"), ".hdr": (".img",), ".img": (".hdr",),
}  # fmt: skip
"""Endings of the files that belong to one of the first ending."""
_BUDGET = frozenset({"minutes", "steps"})
"""What may change when a training goes on: a longer budget prolongs it."""


def check_place(out: Path, examples: Sequence[Example]) -> None:
    """Refuse a folder that cannot be written, before hours are spent.

    Raises:
        OutputError: It is a file, or may not be written.
        ConfigError: The images lie in it.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(what=f"{out} is a file", why="a training fills a folder", mend="name a folder with -o")
    nearest = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(
            what=f"{out} cannot be written", why=f"{nearest} is no folder that you may write to", mend="choose another with -o"
        )
    if any(example.image.absolute().parent == out.absolute() for example in examples):
        raise ConfigError(
            what=f"the images lie in {out}", why="the pictures of the training would be taken for images", mend="use -o OTHER"
        )


def definition_of(
    recipe: Mapping[str, Any], examples: Sequence[Example], weights_sha256: str | None, version: str
) -> dict[str, Any]:  # fmt: skip
    """What makes a training this one and no other, JSON values.

    Raises:
        SourceError: A file of the data cannot be read.
    """
    listed = [[e.split, e.group, e.kind, e.weight, e.attribute, e.coco_image, dict(e.class_of_id)] for e in examples]
    said = json.dumps(listed, sort_keys=True).encode()
    values = {
        "recipe": recipe, "data": digests(examples), "list_sha256": hashlib.sha256(said).hexdigest(),
        "weights_sha256": weights_sha256, "version": version,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def digests(examples: Sequence[Example]) -> dict[str, str]:
    """SHA-256 of every image and label file, by path; of a folder of every file in it.

    A shapefile's columns and CRS are files of their own, as are the voxels of some volumes.
    """
    found: dict[str, str] = {}
    for path in files_of(p for e in examples for p in (e.image, e.labels, e.aoi) if p is not None):
        beside = [path.with_suffix(end) for end in _PARTS.get(path.suffix.lower(), ())]
        for each in (path, *(p for p in beside if p.exists())):
            if str(each) not in found:
                found[str(each)] = _digest(each)
    return found


def check_same(out: Path, definition: Mapping[str, Any], *, overwrite: bool) -> bool:
    """True when the folder holds this very training and a state to go on from, False when one begins anew.

    Raises:
        OutputError: It holds another one, or files of the same names, and they may not be overwritten.
    """
    present = _ours(out)
    if not present or present == [out / RECIPE]:  # nothing is lost
        return False
    reasons = _changes(_read(out / RECIPE), definition)
    if not reasons and (out / STATE).exists():
        return True
    if overwrite:
        return False
    raise OutputError(
        what=f"{out} holds another training", why="; ".join(reasons) or f"{STATE} is missing, without which none goes on",
        mend="give another folder with -o, or start anew with --overwrite",
    )  # fmt: skip


def begin(out: Path, definition: Mapping[str, Any], *, is_new: bool) -> None:
    """Make the folder and record what is trained; a new training first removes the files of one that was here.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    with translated(out / RECIPE):
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        for path in _ours(out) if is_new else []:
            path.unlink()
    with publishing(out / RECIPE) as path:
        path.write_text(json.dumps(definition, indent=1), encoding="utf-8")


@contextmanager
def only_trainer(out: Path) -> Iterator[None]:
    """Hold a folder while training in it; the lock goes with the process that holds it.

    Raises:
        BusyError: Another process trains there.
    """
    handle = os.open(out, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            _lock(handle, out)
        yield
    finally:
        os.close(handle)


def read_history(out: Path, until: int) -> list[dict[str, Any]]:
    """Lines of the validations up to a batch; later ones belong to batches that are learnt from again."""
    path = out / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [row for row in rows if row["step"] <= until]


def write_history(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All lines, whole or not at all."""
    with publishing(out / HISTORY) as path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(
            what=f"another process trains in {out}", why="two would overwrite each other's state",
            mend="wait for it to end, or name another folder with -o",
        ) from error  # fmt: skip


def _ours(out: Path) -> list[Path]:
    return [out / name for name in FILES if (out / name).exists()]


def _read(record: Path) -> dict[str, Any]:
    """What a folder's training was defined by; nothing where it does not say."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(
            what=f"{path} cannot be read", why=error.strerror or str(error), mend="check the path and its permissions"
        ) from error


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, in words; wherever the data lie now, the same bytes are the same data."""
    if not old:
        return [f"its {RECIPE} is missing or damaged"]
    a, b = ({**d.get("recipe", {}), **d.get("recipe", {}).get("reading", {}), "reading": None} for d in (old, new))
    names = [n for n in sorted(set(a) | set(b)) if n not in _BUDGET and a.get(n) != b.get(n)]
    changed = [f"{name.replace('_', '-')} was {a.get(name)} and is {b.get(name)}" for name in names]
    if old.get("weights_sha256") != new["weights_sha256"]:
        changed.append("the weights to begin with")
    data = _changed_files(old.get("data", {}), new["data"])
    if not data and old.get("list_sha256") != new["list_sha256"]:
        data = ["splits, groups, weights or classes of the images"]
    return changed + data


def _changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    if list(old.values()) == list(new.values()):
        return []
    kinds = {
        "changed": [n for n in new if n in old and old[n] != new[n]],
        "new": [n for n in new if n not in old],
        "gone": [n for n in old if n not in new],
    }
    told = [f"{kind} data: {_some(names)}" for kind, names in kinds.items() if names]
    return told or ["the data come in another order"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
