"""Stand-ins for what a process apart is told to do, found there by their names: they really die, or really keep silent."""

from __future__ import annotations

import faulthandler
import os
import time
from pathlib import Path
from typing import Any

from seggeo.io import slide_apart

release = slide_apart.release
BAD_CORNER = (60, 40)
"""Column and row of a block of full resolution."""


def look(path: str) -> slide_apart.Seen:
    """What `slide_apart.look` does, but slides by certain names are the end of it."""
    _meet(path, "opened")
    return slide_apart.look(path)


def read(path: str, corner: tuple[int, int], *where: Any) -> slide_apart.Region | None:
    """What `slide_apart.read` does, likewise; by one name only in the block at `BAD_CORNER`."""
    _meet(path, "read")
    if Path(path).stem == "crash-in-one-place" and corner == BAD_CORNER:
        write_into_nothing()
    return slide_apart.read(path, corner, *where)


def write_into_nothing() -> None:
    """Write to an address that is no memory."""
    faulthandler._sigsegv()


def _meet(path: str, when: str) -> None:
    name = Path(path).stem
    if name == f"crash-when-{when}":
        write_into_nothing()
    if name == f"abort-when-{when}":
        os.abort()
    if name == f"hang-when-{when}":
        time.sleep(600)
