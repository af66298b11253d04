"""Garbage in cycles is looked for rarely in our own processes, and never in programs that only use us."""

from __future__ import annotations

import os
import subprocess
import sys

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
