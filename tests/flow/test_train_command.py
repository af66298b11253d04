"""`seggeo train` from the command line: labels of each kind to weights that `seggeo segment` uses, stops, and refusals."""

import json
import re
import signal
import subprocess
import time

import numpy as np
import pytest
import shapely
from safetensors import safe_open
from support_annotations import SHARED, at_pixels, polygon_file, utm_frame
from support_docs import DOCS, code_blocks, tables
from support_flow import COMMAND, call, clean_environment, features, has_escapes, succeed
from support_io import write
from support_threads import one_thread
from support_train import TINY, coco_of, data_folder, discs, lit, write_pair

from seggeo.train import folder

NUCLEI, KAMPALA = SHARED / "nuclei" / "nucls_he", SHARED / "overhead" / "kampala"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
SEGMENT = ("--device", "cpu", "--workers", "1", "--no-preview", "--json", "-o", "found")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def facts(out):
    with safe_open(out / folder.WEIGHTS, "numpy") as file:
        return json.loads(file.metadata()["seggeo"])


def train(*args, cwd, steps=4):
    return succeed("train", "unet", *args, *TINY, "--steps", str(steps), "--epoch", "1000", "--json", "-o", "out", cwd=cwd)


@needs_shared
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["rasters", "coco", "polygons"])
def test_each_kind_of_labels_makes_weights_that_segment_uses(tmp_path, kind):
    images = sorted((NUCLEI / "images").iterdir())
    if kind == "rasters":
        data, image, classes = [NUCLEI], images[0], ["1", "2"]
    elif kind == "coco":
        json_ = coco_of(images[:3], NUCLEI / "labels", tmp_path / "nuclei.json")
        data, image, classes = [json_, "--images", NUCLEI / "images"], images[0], ["nucleus"]
    else:
        image, classes = KAMPALA / "kampala_dense_z21.tif", ["object"]
        data = [image, "--labels", KAMPALA / "kampala_dense_buildings.geojson", "--gsd", "0.15"]

    ran = train(*data, cwd=tmp_path)
    coarse = ("--gsd", "0.3") if kind == "polygons" else ()
    found = succeed("segment", image, "--weights", tmp_path / "out" / folder.WEIGHTS, *coarse, *SEGMENT, cwd=tmp_path)

    assert ran.results[-1]["step"] == 4
    assert all(np.isfinite(v) for v in ran.results[-1]["losses"].values())
    assert facts(tmp_path / "out")["classes"] == classes
    assert found.results[0]["failed_tiles"] == 0


def test_what_was_learnt_is_found(tmp_path):
    data_folder(tmp_path / "data")
    ran = train("data", cwd=tmp_path, steps=70)
    write(tmp_path / "new.tif", lit(discs(9), seed=9))
    found = succeed("segment", "new.tif", "--weights", "out/model.safetensors", *SEGMENT, cwd=tmp_path)

    assert ran.results[-1]["pq"] > 0.6
    assert abs(found.results[0]["objects"] - discs(9).max()) <= 6
    assert not has_escapes(ran.err)
    assert "seggeo segment IMAGE --weights out/model.safetensors" in ran.err
    assert len(ran.out.splitlines()) == 1, "standard output is for results"


def test_five_bands_of_16_bits_and_several_classes(tmp_path):
    """What sets the classes apart is only in the fourth band, and the classes come back in the GeoPackage."""
    labels, frame = discs(0, (512, 200), 130), utm_frame(512, 200)
    kinds = np.where(np.arange(labels.max() + 1) % 2 == 0, "even", "odd")
    image = np.random.default_rng(0).normal(0, 40, (5, *labels.shape)) + np.where(labels > 0, 3000, 900)
    image[3] = np.where(labels == 0, 2000, np.where(labels % 2 == 0, 3500, 500))
    write(tmp_path / "scene.tif", image.clip(0, 65535).astype("uint16"))
    shapes = [at_pixels(shapely.box(c.min(), r.min(), c.max() + 1, r.max() + 1), frame) for r, c in
              (np.nonzero(labels == i) for i in range(1, labels.max() + 1))]  # fmt: skip
    polygon_file(tmp_path / "things.gpkg", shapes, kind=list(kinds[1:]))

    learn = ("--attribute", "kind", "--bands", "all")
    train("scene.tif", "--labels", "things.gpkg", *learn, cwd=tmp_path, steps=80)
    found = succeed("segment", "scene.tif", "--weights", "out/model.safetensors", *SEGMENT, cwd=tmp_path)
    table = features(tmp_path / found.results[0]["outputs"]["gpkg"])
    job = json.loads(next((tmp_path / "found").rglob("job.json")).read_text())

    assert sorted(facts(tmp_path / "out")["classes"]) == ["even", "odd"]
    low = [float(v) for v in job["model"]["settings"]["low"].split(",")]
    np.testing.assert_allclose(low, np.percentile(image.reshape(5, -1), 2, axis=1), rtol=0.05)
    assert len(table) > 0.6 * labels.max()
    centre = table.geometry.centroid
    row, col = ((5200000 - centre.y) / 0.5).astype(int), ((centre.x - 500000) / 0.5).astype(int)
    ids = labels[row, col]
    right = (table["class"] == kinds[ids])[ids > 0]
    assert right.mean() > 0.8


def start(cwd, out):
    job = ("train", "unet", "data", *TINY, "--steps", "4000", "--epoch", "10000", "-o", out)
    return subprocess.Popen(
        [str(COMMAND), *job], cwd=cwd, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def begun(process, path, timeout_s=120):
    """Whether a file appeared while the process ran."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and process.poll() is None and not path.exists():
        time.sleep(0.05)
    return path.exists()


def test_a_signal_saves_the_state_and_a_kill_does_not_harm_it(tmp_path):
    data_folder(tmp_path / "data")
    out = tmp_path / "out"
    process = start(tmp_path, "out")
    assert begun(process, out / folder.RECIPE)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    before = time.monotonic()
    printed, errors = process.communicate(timeout=60)
    text = errors.decode()

    assert process.returncode == 75, text
    assert time.monotonic() - before < 10
    assert "error: stopped by SIGTERM" in text
    assert "fix: go on with the same command: seggeo train unet data" in text
    assert printed == b""
    assert "Traceback" not in text
    saved = (out / folder.STATE).read_bytes()

    process = start(tmp_path, "out")
    assert "going on from batch" in process.stderr.readline().decode()
    process.kill()
    process.communicate()
    assert (out / folder.STATE).read_bytes() == saved
    assert sorted(p.name for p in out.iterdir()) == [folder.RECIPE, folder.STATE]

    ran = succeed(*process.args[1:-2], "-o", "out", "--steps", "3", cwd=tmp_path)
    assert f"batch {facts(out)['step']}" in ran.err, "more than 3 were done before, and what was learnt is judged"
    assert (out / folder.WEIGHTS).exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("yolo", "data"), 2, "no model called 'yolo'"),
        (("unet", "nowhere"), 3, "nowhere"),
        (("unet", "empty"), 3, "holds no images"),
        (("unet", "blank"), 3, "no objects at all"),
        (("unet", "data", "--steps", "0", "--minutes", "0"), 2, "budget"),
        (("unet", "data", "--crop", "100"), 2, "--crop 96"),
        (("unet", "data", "--zoom", "wide"), 2, "--zoom 0.8,1.25"),
        (("unet", "data", "--bands", "x"), 2, "whole numbers"),
        (("unet", "data", "--bands", "9"), 2, "no band 9"),
        (("unet", "data", "--set", "depth=4"), 2, "widths"),
        (("unet", "data", "--device", "cuda:99"), 7, "cuda:99"),
        (("unet", "data", "--weights", "nowhere.pth"), 6, "nowhere.pth"),
        (("unet", "data", "--threads", "0"), 2, "threads"),
        (("unet", "data", "--out", "file"), 5, "is a file"),
        (("unet", "data", "--out", "file/x"), 5, "cannot be written"),
        (("unet", "data/img0.tif", "--out", "data"), 2, "the images lie in"),
    ],
)
def test_refusals_say_what_to_do_and_leave_nothing_behind(tmp_path, words, code, text):
    data_folder(tmp_path / "data")
    write_pair(tmp_path / "blank", "a", np.zeros((64, 64), np.int32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(p.name for p in tmp_path.rglob("*"))

    ran = call("train", "-o", "out", *TINY, *words, cwd=tmp_path)

    assert ran.code == code, ran.err
    assert text in ran.err
    assert ran.err.count("error: ") == 1
    assert "\n  fix: " in ran.err
    assert ran.out == ""
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_one_small_image_is_too_little_and_says_so(tmp_path):
    write_pair(tmp_path / "data", "one", discs(0, (120, 120), 12))
    ran = call("train", "unet", "data", *TINY, "--steps", "2", "-o", "out", cwd=tmp_path)

    assert ran.code == 2
    assert "too little data to hold some back" in ran.err


def test_images_smaller_than_the_crop_are_enough(tmp_path):
    for i in range(3):
        write_pair(tmp_path / "data", f"s{i}", discs(i, (40, 52), 4))
    ran = succeed("train", "unet", "data", *TINY, "--crop", "128", "--steps", "4", "-o", "out", cwd=tmp_path)

    assert "judged by" in ran.err


def test_another_training_in_the_folder_is_exit_5(tmp_path):
    data_folder(tmp_path / "data")
    train("data", cwd=tmp_path, steps=1)
    again = train("data", cwd=tmp_path, steps=1)
    other = call("train", "unet", "data", *TINY, "--crop", "96", "--steps", "1", "-o", "out", cwd=tmp_path)

    assert "it is finished" in again.err
    assert again.out == ""
    assert other.code == 5
    assert "crop was 64 and is 96" in other.err


def test_the_guide_is_true(tmp_path, monkeypatch, capsys):
    """Its code runs, its table lists the files that are written, and every option in it exists."""
    data_folder(tmp_path / "nuclei")
    monkeypatch.chdir(tmp_path)
    exec(compile(code_blocks("training.md", "python")[0], "training.md", "exec"), {"__name__": "guide"})

    scores = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [step for step, _ in scores] == ["10", "20"]
    assert sorted(p.name for p in (tmp_path / "cells").iterdir()) == sorted(folder.FILES)
    assert {row[0].strip("`") for row in tables("training.md", "4. The folder") if "." in row[0]} == set(folder.FILES)
    known = set(re.findall(r"--[a-z-]+", str(succeed("train", "--help", cwd=tmp_path).out)))
    told = re.findall(r"seggeo train [^#\n]*", (DOCS / "training.md").read_text())
    assert {word for line in told for word in re.findall(r"--[a-z-]+", line)} <= known
