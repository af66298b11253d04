"""The benchmark for a GPU runs at toy size without one, and refuses to measure without one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from support_threads import one_thread

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_7(script, capsys):
    assert script.main([]) == 7
    assert "no CUDA device" in capsys.readouterr().err


def test_its_code_runs_at_toy_size(script, capsys):
    with one_thread():
        assert script.main(["--device", "cpu", "--toy", "--ways", "plain"]) == 0
    told = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split() for line in told.splitlines()}
    assert "TOY RUN" in told
    same, total = lines["seggeo"][5].split("/")
    assert same == total != "0"
    assert {"maskrcnn", "nuclei", "sam toy"} <= set(lines)
    assert "HoVer-NeXt" in told
