"""Whose the tables and the page of a folder of counts are: what seggeo wrote there, unchanged since, it may write anew.

A table has its digest in `tables.seggeo.json` beside it, before and until it is replaced; the page carries its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from seggeo.files import translated
from seggeo.run.finish import write_json
from seggeo.store import publish, read_json

RECORD = "tables.seggeo.json"
_SEAL = b"<!-- seggeo "


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's tables for as long as one change takes; other processes may count into the same folder.

    Raises:
        OutputError: There is no such folder.
    """
    with translated(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_ours(path: Path) -> bool:
    """True for a table or page that seggeo wrote, and nobody changed since."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return _digest(data) in _recorded(path.parent).get(path.name, ()) or _is_sealed(data)


def publish_tables(folder: Path, tables: Mapping[str, bytes | None]) -> None:
    """Write tables by name; one that is None is taken away.

    Raises:
        OutputError: The folder cannot be written to.
        ResourceError: The disk is full.
    """
    new = {name: [_digest(data)] for name, data in tables.items() if data is not None}
    old = _recorded(folder)
    _record(folder, {name: sorted({*old.get(name, ()), *new.get(name, ())}) for name in sorted({*old, *new})})
    for name, data in tables.items():  # killed here, each of them is still known as ours
        if data is not None:
            publish(folder / name, data)
            continue
        with translated(folder / name):
            (folder / name).unlink(missing_ok=True)
    _record(folder, new)


def publish_page(path: Path, data: bytes) -> Path:
    """Write an HTML page that ends in its own digest.

    Raises:
        OutputError: The folder cannot be written to.
        ResourceError: The disk is full.
    """
    return publish(path, data + _seal(data))


def _is_sealed(data: bytes) -> bool:
    body, found, _ = data.rpartition(_SEAL)
    return bool(found) and data == body + _seal(body)


def _seal(data: bytes) -> bytes:
    return _SEAL + _digest(data).encode() + b" -->\n"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _recorded(folder: Path) -> dict[str, list[str]]:
    tables = read_json(folder / RECORD).get("tables", {})
    return {str(k): list(v) for k, v in tables.items() if isinstance(v, list)} if isinstance(tables, dict) else {}


def _record(folder: Path, tables: Mapping[str, list[str]]) -> None:
    if _recorded(folder) != tables:
        write_json(folder / RECORD, {"tables": tables})
