"""Garbage in cycles is looked for rarely in our own processes, and never in programs that only use us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RARELY = """
import weakref
from seggeo.run.collector import collect_rarely

class Node:
    pass

collect_rarely()
first = Node()
first.itself = first
seen = weakref.ref(first)
del first
young = [[] for _ in range(5_000)]
print(seen() is not None)
young += [[] for _ in range(50_000)]
print(seen() is None)
"""

SPARED = """
import gc
from seggeo.run.collector import collect_rarely, spare_imports

spare_imports()
print(gc.get_freeze_count() == 0)
collect_rarely()
spare_imports()
print(gc.get_freeze_count() > 0)
before = gc.get_freeze_count()
young = [[] for _ in range(100)]
spare_imports()
print(gc.get_freeze_count() <= before)
"""

COMPLAINING = """
import gc
import triton
from seggeo.run.collector import collect_rarely, spare_imports

collect_rarely()
spare_imports()
print(gc.get_freeze_count() == 0)
"""

LATER = """
import gc
from seggeo.run.collector import collect_rarely, spare_imports

collect_rarely()
import torch
spare_imports()
print(gc.get_freeze_count() > 0)
import torch._dynamo, triton
"""

HELD = """
import gc
import sys
import numpy as np
import torch
import seggeo

gc.collect()
gc.disable()
seggeo.segment(sys.argv[1], sys.argv[2], model="nuclei", diameter=20, tile=256, workers=1, device="cpu", preview=False)
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
held = {id(one): one for lost in gc.garbage for one in gc.get_referents(lost)}.values()
print(sum(one.nbytes for one in held if isinstance(one, np.ndarray | torch.Tensor)))
"""


def said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stderr == ""
    return done.stdout.split()


def test_garbage_is_looked_for_rarely():
    assert said_by(RARELY) == ["True", "True"]


def test_imports_are_spared_once_and_in_our_own_processes_alone():
    assert said_by(SPARED) == ["True", "True", "True"]


@pytest.mark.parametrize("code", [COMPLAINING, LATER], ids=["before", "later"])
def test_nanobind_has_nothing_to_complain_of(code):
    pytest.importorskip("triton", reason="torch came without triton")
    assert said_by(code) == ["True"]


def test_no_pixels_wait_for_the_collector(tmp_path: Path):
    image = Path(__file__).parents[2] / "sample_data" / "nuclei.tif"
    command = [sys.executable, "-W", "ignore", "-c", HELD, str(image), str(tmp_path / "out.gpkg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
