"""Memory that was freed stays with a process that asked for it, and goes back when it says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import os, sys
import numpy as np
from seggeo.run.heap import keep_freed_memory, release_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

keep_freed_memory()
before = resident()
np.ones(64 << 20, np.uint8)
kept = resident() - before
release_freed_memory()
released = resident() - before
np.ones(64 << 20, np.uint8)
print(kept, released, resident() - before)
"""


BOUNDED = """
import os
import numpy as np
from seggeo.run.heap import bound_freed_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

keep_freed_memory()
np.ones(64 << 20, np.uint8)
bound_freed_memory()
first = resident()
np.ones(64 << 20, np.uint8)
bound_freed_memory()
kept = resident() - first
np.ones(1 << 30, np.uint8)
grown = resident() - first
bound_freed_memory()
print(kept, grown, resident() - first)
"""


def probe(**environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux") or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="no glibc")
def test_freed_memory_is_kept_until_it_is_released():
    kept, released, after = probe()
    assert kept > 48
    assert released < 16
    assert after < 16


@pytest.mark.skipif(not sys.platform.startswith("linux") or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="no glibc")
def test_what_is_kept_is_bounded_by_the_first_batch():
    done = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True)
    kept, grown, bounded = (int(word) for word in done.stdout.split())
    assert abs(kept) < 8, "as much again is what is kept for"
    assert grown > 900
    assert bounded < 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_limits_set_by_the_user_stay():
    kept, _, after = probe(MALLOC_MMAP_THRESHOLD_="1048576")
    assert kept < 16
    assert after < 16
