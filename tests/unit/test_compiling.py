"""Speed at the price of equal numbers: asked for it is followed, told and part of the job; unasked nothing changes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support_flow import scene, write_labels
from support_sam import SETTINGS, blob_image, make_sam_weights
from support_unet import save_network, toy_network, whole_tile
from torch import nn

import seggeo.run.plan as planning
from seggeo.config import settings_from
from seggeo.errors import SeggeoWarning
from seggeo.models.compiling import fill_batch, in_bfloat16, keep_compiled
from seggeo.models.sam import load as load_sam
from seggeo.models.unet import load as load_unet
from seggeo.protocols import ModelInfo, ModelRequest
from seggeo.run.notices import faster_notices

ASKED = ModelRequest(name="toy", autocast=True, compile=True)


def test_a_network_in_bfloat16_answers_in_float32_and_nearly_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    image = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        exact, half = network(image), in_bfloat16(copy.deepcopy(network))(image)

    assert half.dtype == torch.float32
    assert 1e-5 < (exact - half).abs().max() < 2e-2


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_batch_is_filled_with_zeros(count: int):
    items = torch.rand(count, 3, 5)
    filled = fill_batch(items, 4)
    assert filled.shape == (4, 3, 5)
    assert torch.equal(filled[:count], items)
    assert not filled[count:].any()


def test_what_is_compiled_lies_beside_fetched_weights_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEGGEO_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")


def test_unet_follows_autocast_and_says_so(tmp_path: Path):
    weights = save_network(toy_network(), tmp_path / "toy.safetensors")
    exact, half = (
        load_unet(ModelRequest(name="unet", weights=weights, settings={"scale": "1"}, device="cpu", autocast=autocast))
        for autocast in (False, True)
    )
    tile = whole_tile(np.random.default_rng(0).integers(0, 255, (192, 192, 3)).astype(np.uint8))

    one, two = exact.fields(tile.image, tile.valid).chance, half.fields(tile.image, tile.valid).chance

    assert (exact.info.faster, half.info.faster) == ((), ("autocast",))
    assert two.dtype == np.float32
    assert 0 < np.abs(one - two).max() < 0.1


def test_sam_says_what_it_follows(tmp_path: Path):
    weights = make_sam_weights(tmp_path / "toy.safetensors")
    half = load_sam(ModelRequest(name="sam", weights=weights, settings=SETTINGS, device="cpu", autocast=True))

    found = half.predict([whole_tile(blob_image(128, 128, seed=3))])[0].instances

    assert half.info.faster == ("autocast",)
    assert len(found) >= 2


def test_notices_say_what_is_approximate_and_what_is_not_used():
    sam = ModelInfo(name="sam", faster=("autocast", "compile"))
    autocast, compiled = faster_notices(sam, ASKED)
    assert "approximate" in autocast
    assert "0.003" in autocast
    assert "decoder in float32" in autocast
    assert "AMX" in autocast
    assert "first tiles" in compiled
    assert "equal up to rounding" in compiled
    assert not any("AMX" in line for line in faster_notices(replace(sam, device="cuda:0"), ASKED))
    assert all("threshold has no use for it" in line for line in faster_notices(ModelInfo(name="threshold"), ASKED))
    assert not list(faster_notices(sam, ModelRequest(name="sam")))


@pytest.mark.parametrize("asked", ["autocast", "compile"])
def test_what_changes_predictions_is_told_once_and_makes_another_job(tmp_path: Path, asked: str):
    path = write_labels(tmp_path / "a.tif", scene("discs", 1, (90, 90)))
    values = {"model": "threshold", "tile": 64, "overlap": 16}
    plain = planning.make_plan(str(path), *settings_from(values))
    with pytest.warns(SeggeoWarning, match=f"--{asked}") as told:
        faster = planning.make_plan(str(path), *settings_from({**values, asked: True}))

    assert len(told) == 1
    assert plain.job.tile_key != faster.job.tile_key
    assert getattr(faster.request, asked)


def in_a_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code where nothing is compiled or cached yet."""
    keys = {k: v for k, v in os.environ.items() if k not in ("TORCHINDUCTOR_CACHE_DIR", "CXX")}
    environment = {**keys, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


COMPILED = """
import torch
from torch import nn
from seggeo.errors import SeggeoError
from seggeo.models.compiling import compile_network
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3)).eval().requires_grad_(False)
image = torch.rand(1, 3, 16, 16)
with torch.inference_mode():
    plain = network(image)
    names = list(network.state_dict())
    try:
        quick = compile_network(network)(image)
    except SeggeoError as error:
        print(f"refused {error.exit_code}: {error}")
    else:
        print("differ by", float((plain - quick).abs().max()), "same names", names == list(network.state_dict()))
"""


@pytest.mark.slow
def test_a_compiled_network_is_the_same_up_to_rounding_and_is_kept(tmp_path: Path):
    done = in_a_process(COMPILED, SEGGEO_CACHE=str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "same names True" in done.stdout
    assert float(done.stdout.split()[2]) < 1e-5
    assert any(path.suffix in (".cpp", ".so") for path in (tmp_path / "compiled").rglob("*"))


@pytest.mark.slow
def test_without_a_compiler_it_is_refused_before_the_first_tile(tmp_path: Path):
    done = in_a_process(COMPILED, SEGGEO_CACHE=str(tmp_path), CXX=str(tmp_path / "no-compiler"))

    assert done.returncode == 0, done.stderr
    assert "refused 7: --compile: nothing can be compiled for cpu" in done.stdout
    assert "leave --compile out" in done.stdout
