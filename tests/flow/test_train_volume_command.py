"""`seggeo train unet` on a volume whose objects only the neighbouring slices tell from what flashes up in one slice."""

import json

import nibabel
import numpy as np
import pytest
import tifffile
from safetensors import safe_open
from skimage import draw
from support_flow import call, succeed
from support_io import write
from support_threads import one_thread
from support_train import TINY

SEGMENT = ("--set", "scale=1", "--device", "cpu", "--workers", "1", "--no-preview", "--json")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def flashes(seed, depth=20, side=96):
    """Image and labels: discs that stay for five slices are objects, and twice as many of one slice are none."""
    rng = np.random.default_rng(seed)
    image, labels = np.full((depth, side, side), 40.0), np.zeros((depth, side, side), np.uint16)
    taken = np.zeros(image.shape, bool)
    for i in range(2000):
        length = 5 if i % 3 == 0 else 1
        first, centre, radius = int(rng.integers(-2, depth)), rng.uniform(0, side, 2), rng.uniform(5, 8)
        around = draw.disk(centre, radius + 2, shape=(side, side))
        if taken[max(0, first - 1) : first + length + 1, *around].any():
            continue
        disc = draw.disk(centre, radius, shape=(side, side))
        taken[max(0, first) : max(0, first + length), *disc] = True
        if length > 1:
            labels[max(0, first) : first + length, *disc] = labels.max() + 1
    image[taken] = 200
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stack, its labels as NIfTI, and what two trainings with and without neighbours made of it."""
    place = tmp_path_factory.mktemp("flashes")
    for name, seed in (("a", 0), ("new", 1)):
        image, labels = flashes(seed)
        tifffile.imwrite(place / f"{name}.tif", image, imagej=True, metadata={"axes": "ZYX", "spacing": 1, "unit": "um"})
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.eye(4)), place / f"{name}_label.nii.gz")
    ran = {}
    for neighbours in ("0", "1"):
        options = (*TINY, "--neighbours", neighbours, "--steps", "70", "--rate", "0.02", "--epoch", "1000", "--json")
        ran[neighbours] = succeed("train", "unet", "a.tif", *options, "-o", f"out{neighbours}", cwd=place)
    return place, ran


def weights_of(place, neighbours):
    return place / f"out{neighbours}" / "model.safetensors"


def test_neighbours_teach_what_one_slice_does_not_show(folder):
    _, ran = folder
    alone, among = (ran[n].results[-1] for n in ("0", "1"))

    assert "(slices)" in ran["1"].err
    assert among["f1"] > alone["f1"] + 0.08
    assert among["count_error"] < 0.7 * alone["count_error"], "what flashes up is not counted"


def test_weights_carry_their_neighbours_into_segment(folder):
    place, _ = folder
    with safe_open(weights_of(place, 1), "numpy") as file:
        facts = json.loads(file.metadata()["seggeo"])
    found = succeed("segment", "new.tif", "--weights", weights_of(place, 1), *SEGMENT, "-o", "found", cwd=place)
    job = json.loads(next((place / "found").rglob("job.json")).read_text())

    assert facts["neighbours"] == 1
    assert facts["trained"]["smooth_px"] == [0.0]
    assert "window" not in facts
    assert found.results[0]["failed_tiles"] == 0
    assert found.results[0]["objects"] > 0
    assert (job["reading"]["neighbours"], len(job["reading"]["bands"])) == (1, 3)
    assert job["reading"]["stretch"] == facts["stretch"] == "percent:0.5,99.9"


def test_five_slices_are_five_bands(folder):
    place, _ = folder
    options = (*TINY, "--neighbours", "2", "--steps", "2", "--epoch", "1000")
    succeed("train", "unet", "a.tif", *options, "-o", "out2", cwd=place)
    found = succeed("segment", "new.tif", "--weights", weights_of(place, 2), *SEGMENT, "-o", "found2", cwd=place)
    job = json.loads(next((place / "found2").rglob("job.json")).read_text())

    assert found.results[0]["failed_tiles"] == 0
    assert (job["reading"]["neighbours"], len(job["reading"]["bands"])) == (2, 5)
    low = [float(v) for v in job["model"]["settings"]["low"].split(",")]
    np.testing.assert_allclose(low, np.percentile(flashes(1)[0], 0.5), atol=2)


def test_an_image_of_one_plane_is_refused(folder):
    place, _ = folder
    write(place / "plane.tif", flashes(2)[0][:1])
    ran = call("segment", "plane.tif", "--weights", weights_of(place, 1), *SEGMENT, "-o", "plane", cwd=place)

    assert ran.code == 2
    assert "has learnt from slices with 1 before and after, and the image has one plane" in ran.refusal()[0]
