"""`segment` reads images at the GSD of a Mask R-CNN's training, unless it is told another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from support_flow import Ran, succeed
from support_io import write
from support_threads import one_thread
from support_train import discs, lit, one_scene

from seggeo.train.maskrcnn_task import maskrcnn_task
from seggeo.train.recipe import Recipe

GSD = 0.5
"""Of the images learnt from, m."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of a network that has learnt nothing yet, as training writes them."""
    where = tmp_path_factory.mktemp("gsd")
    task = maskrcnn_task(Recipe(model="maskrcnn", crop=64), [one_scene(where / "data", discs(0))], None)
    task.write(task.network.eval(), where / "model.safetensors", {**task.card(), "stretch": "auto"})
    assert task.card()["gsd"] == GSD
    return where


def planned(place: Path, *words: str, image: str = "new.tif") -> Ran:
    return succeed("segment", image, "--weights", "model.safetensors", *words, "--device", "cpu", cwd=place)


@pytest.mark.parametrize(("gsd", "read"), [(0.25, GSD), (1.0, GSD), (0.55, None), (GSD, None), (3.0, None)])
def test_an_image_is_read_at_the_gsd_of_the_weights(place: Path, gsd: float, read: float | None):
    write(place / "new.tif", lit(discs(9)), transform=Affine(gsd, 0, 500000, 0, -gsd, 5200000))
    plan = planned(place, "--dry-run", "--json").results[0]
    own = planned(place, "--dry-run", "--json", "--gsd", "2").results[0]

    assert plan["settings"]["gsd"] == {"value": read, "from": "default" if read is None else "the weights"}
    assert plan["width"] == int(np.ceil(192 * gsd / (read or gsd) - 1e-6))
    assert own["settings"]["gsd"] == {"value": 2.0, "from": "--gsd"}


def test_a_run_says_at_which_gsd_it_reads_and_a_coarse_image_is_warned_of(place: Path):
    write(place / "fine.tif", lit(discs(9)), transform=Affine(0.25, 0, 500000, 0, -0.25, 5200000))
    write(place / "coarse.tif", lit(discs(9)), transform=Affine(10, 0, 500000, 0, -10, 5200000))
    write(place / "nowhere.tif", lit(discs(9)), geo=False)
    small = ("--workers", "1", "--no-preview", "-o", "found")
    fine, coarse, nowhere = (planned(place, *small, image=f"{name}.tif") for name in ("fine", "coarse", "nowhere"))

    assert "read at 0.5 m a pixel, as the weights have learnt; say otherwise with --gsd" in fine.err
    assert "warning" not in fine.err.lower()
    assert "learnt at 0.5 m a pixel and the image has 10 m" in coarse.err
    assert "a pixel" not in nowhere.err
