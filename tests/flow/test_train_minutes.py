"""Three minutes of training from each kind of labels, killed on the way: the loss falls, and what is learnt segments."""

import json
import subprocess
import time

import pytest
from support_annotations import SHARED
from support_flow import COMMAND, clean_environment, seggeo
from support_train import coco_of

from seggeo.train import folder

NUCLEI, BANEPA = SHARED / "nuclei" / "nucls_he", SHARED / "overhead" / "banepa"
MINUTES = 3


def data_of(kind, where):
    """Words of the command that name the data, and an image to segment."""
    images = sorted((NUCLEI / "images").iterdir())
    if kind == "rasters":
        return [NUCLEI], images[0]
    if kind == "coco":
        return [coco_of(images, NUCLEI / "labels", where / "nuclei.json"), "--images", NUCLEI / "images"], images[0]
    scene = BANEPA / "banepa_north.tif"
    return [scene, "--labels", BANEPA / "banepa_north_buildings.geojson", "--gsd", "0.3", "--allow-overlap"], scene


def history(out):
    path = out / folder.HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["rasters", "coco", "polygons"])
@pytest.mark.parametrize("model", ["unet", "maskrcnn"])
def test_three_minutes_teach_something_and_a_kill_costs_little(tmp_path, model, kind):
    words, image = data_of(kind, tmp_path)
    command = ["train", model, *words, "--device", "cpu", "--minutes", MINUTES, "--epoch", "15", "-o", "out"]
    out = tmp_path / "out"

    first = subprocess.Popen([COMMAND, *map(str, command)], cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE)
    while first.poll() is None and not history(out):
        time.sleep(0.5)
    time.sleep(5)
    first.kill()
    first.communicate()
    before = history(out)
    assert before, "it was killed after its first validation"
    rest = seggeo(*map(str, command), "--json", cwd=tmp_path, timeout=120 * MINUTES)

    assert rest.code == 0, rest.err
    assert "going on from batch" in rest.err
    after = history(out)
    assert after[: len(before)] == before, "nothing of it was done again"
    total = [sum(row["losses"].values()) for row in after]
    assert total[-1] < 0.95 * total[0]
    assert after[-1]["seconds"] < 60 * MINUTES + 30
    limits = ("--gsd", "0.3") if kind == "polygons" else ()
    found = seggeo(
        "segment", image, "--weights", "out/model.safetensors", *limits, "--no-preview", "--json", "-o", "found",
        cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert found.code == 0, found.err
    (result,) = found.results
    print(f"\n{model} from {kind}: {after[-1]['step']} batches, loss {total[0]:.2f} to {total[-1]:.2f}, ", end="")
    print(f"PQ {after[-1]['pq']}, AP50 {after[-1]['ap50']}, {result['objects']} objects")
    assert result["failed_tiles"] == 0
