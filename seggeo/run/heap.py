"""Memory that a network gave up is kept for its next step, in place of being handed to the system and asked for again.

glibc maps every block above 32 MB anew and unmaps it when it is freed. A network does so for every layer, and the system
clears each page first: a quarter of the CPU time of a forward pass of 4 Mpx, measured with torch 2.15 on Linux 6. Kept, the
memory costs nothing until the prediction is over; the peak is about the same, since the next layer would have asked for
as much. Where there is no glibc, or the user has set its limits himself, everything stays as it is.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt`, from glibc's malloc.h."""
_MOST_MAPPED = 65536
"""Blocks that may be mapped, glibc's default."""
_LARGEST_KEPT = 32 << 20
"""Size, bytes, up to which glibc by itself learns to keep blocks."""
_NEVER = (1 << 31) - 1
_MOST_KEPT = 1.25
"""Times what is resident after the first batch."""


@cache
def _libc() -> Any:
    """The C library if it has glibc's allocator and the environment leaves its limits alone; None else."""
    chosen = os.environ.get("GLIBC_TUNABLES", "") + "".join(name for name in os.environ if name.startswith("MALLOC_"))
    if "malloc" in chosen.lower():
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018 - asked for, not called
    except (OSError, AttributeError, TypeError):
        return None
    return library


@dataclass(slots=True)
class _Kept:
    """What a process holds while it keeps memory."""

    usual_bytes: int = 0
    """Resident after the first batch; 0 before."""


_kept = _Kept()


def bound_freed_memory() -> None:
    """Between two batches: hand freed memory to the system where more has gathered than a quarter over the first batch's.

    Blocks of ever other sizes leave gaps between them, which add up over hundreds of tiles.
    """
    if (libc := _libc()) is None:
        return
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if not _kept.usual_bytes:
        _kept.usual_bytes = resident
    elif resident > _MOST_KEPT * _kept.usual_bytes:
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """From now on freed memory stays with this process."""
    _kept.usual_bytes = 0
    if (libc := _libc()) is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


def release_freed_memory() -> None:
    """Hand all of it to the system, and large blocks again as soon as they are freed."""
    if (libc := _libc()) is not None:
        libc.mallopt(_MMAP_MAX, _MOST_MAPPED)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)  # any call of mallopt ends glibc's own learning
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
        libc.malloc_trim(0)
