"""What is refused before any work, and what is done instead when it is asked for: CRS, complex numbers, room, a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support_faults import mounted
from support_flow import (
    ORACLE,
    PLAIN,
    SMALL,
    UTM,
    call,
    digests,
    label_raster,
    scene,
    succeed,
    write_labels,
    write_model,
    write_picture,
)
from support_io import noise, write
from support_models import make_maskrcnn_weights

from seggeo.config import Reading, settings_from
from seggeo.errors import ResourceError
from seggeo.instances import Instances
from seggeo.io.geo import open_raster
from seggeo.protocols import ModelInfo, Prediction
from seggeo.run.checks import check_room
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import make_plan

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test wants missing")


def test_a_crs_may_be_required(tmp_path: Path):
    write_picture(tmp_path / "there.tif", scene(shape=(90, 90)))
    write_picture(tmp_path / "none.tif", scene(shape=(90, 90)), crs=None, transform=None)

    refused = call("segment", "none.tif", *PLAIN, "--require-crs", "-o", "out", cwd=tmp_path)

    assert refused.code == 3
    assert "has no CRS" in refused.refusal()[0]
    assert not (tmp_path / "out").exists()
    succeed("segment", "there.tif", *PLAIN, "--require-crs", "-o", "out", cwd=tmp_path)


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
@pytest.mark.parametrize("kind", ["abs", "real"])
def test_complex_numbers_are_read_as_real_ones_on_request(tmp_path: Path, dtype: str, kind: str):
    rng = np.random.default_rng(3)
    values = (rng.integers(-99, 99, (2, 80, 90)) + 1j * rng.integers(-99, 99, (2, 80, 90))).astype(
        "complex128" if dtype == "complex128" else "complex64"
    )
    write(tmp_path / "a.tif", values, dtype=dtype)
    wanted = np.abs(values) if kind == "abs" else values.real

    with open_raster(str(tmp_path / "a.tif"), Reading(complex=kind), native=True) as source:
        pixels = source.read(source.frame.window)

    assert pixels.data.dtype == wanted.dtype
    assert np.array_equal(pixels.data, wanted.transpose(1, 2, 0))
    assert pixels.valid.all()


def test_a_radar_image_is_segmented_by_magnitude(tmp_path: Path):
    truth = scene("discs", 4, (200, 220))
    bright = np.where(truth > 0, 200.0, 10.0) * np.exp(1j * np.random.default_rng(1).uniform(0, 6, truth.shape))
    write(tmp_path / "a.tif", bright[None].astype("complex64"), transform=UTM)

    succeed("segment", "a.tif", *PLAIN, "--complex", "abs", "--set", "polarity=bright", "-f", "cog", cwd=tmp_path)

    assert ((label_raster(tmp_path / "a_labels.tif") > 0) == (truth > 0)).mean() > 0.99
    assert call("segment", "a.tif", *PLAIN, "--complex", "phase", "-o", "x", cwd=tmp_path).code == 2


def test_a_disk_without_room_is_refused_before_any_work(tmp_path: Path):
    write_picture(tmp_path / "a.tif", scene(shape=(90, 90)))
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "seggeo") as disk:
        refused = call("segment", "a.tif", *PLAIN, "-o", "disk", cwd=tmp_path)
        planned = call("plan", "segment", "a.tif", *PLAIN, "-o", "disk", "--job", "disk/job", cwd=tmp_path)
        assert not list(disk.glob("*objects*"))
        succeed("segment", "a.tif", *PLAIN, "-o", "disk", "--no-check-space", cwd=tmp_path)
        assert (disk / "a_objects.gpkg").exists()

    assert (refused.code, planned.code) == (7, 7)
    assert "free space" in refused.refusal()[0]


def test_room_is_asked_of_every_disk(tmp_path: Path):
    check_room(tmp_path / "not" / "yet", tmp_path, 1000)
    with pytest.raises(ResourceError, match="free space"):
        check_room(tmp_path, tmp_path / "work", 1 << 60)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "seggeo") as disk:
        check_room(tmp_path, disk, 1_000_000)
        for out, work in ((tmp_path, disk), (disk, tmp_path), (disk, disk)):
            with pytest.raises(ResourceError, match=f"{disk} has 1 MB"):
                check_room(out, work, 2_000_000)


@NO_GPU
def test_without_a_gpu_the_cpu_is_used_on_request(tmp_path: Path):
    write(tmp_path / "a.tif", noise((3, 64, 64)))
    make_maskrcnn_weights(tmp_path / "m.safetensors", arch="mobilenet_v3_large")
    job = ("segment", "a.tif", "--model", "maskrcnn", "--weights", "m.safetensors", *SMALL)

    succeed(*job, "--device", "cpu", "-o", "cpu", cwd=tmp_path)
    ran = succeed(*job, "--device", "cuda", "--cpu-fallback", "-o", "gone", cwd=tmp_path)

    assert "predicting on the CPU" in ran.err
    assert digests(tmp_path / "gone", "*.gpkg") == digests(tmp_path / "cpu", "*.gpkg")


class Full:
    """A segmenter on a GPU without memory."""

    info = ModelInfo(name="full", native=True, device="cuda")

    def predict(self, tiles: list[object]) -> list[Prediction]:
        raise MemoryError("too large")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_tile_too_large_for_the_gpu_is_predicted_on_the_cpu_on_request(tmp_path: Path, allowed: bool):
    truth = scene("discs", 1, (60, 70))
    path, model = str(write_labels(tmp_path / "a.tif", truth)), write_model(tmp_path, ORACLE)
    settings, execution = settings_from({"model": f"{model}:Oracle", "tile": 128, "overlap": 16, "cpu_fallback": allowed})
    plan = make_plan(path, settings, execution)
    bench = set_up(Recipe(path=path, reading=settings.reading, job=plan.job, request=plan.request), Full())

    part = predict_part(bench, 0)
    bench.close()

    assert [failure["error"] for failure in part.notes["failures"]] == ([] if allowed else ["ResourceError"])
    assert np.array_equal(part.instances.box, Instances.from_labels(truth).box[: len(part.instances)])
    assert (len(part.instances) > 0) == allowed
