"""Models end to end: toy networks, nested masks, limits, and models that fail in one tile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support_flow import (
    FRAGILE,
    ORACLE,
    SMALL,
    below,
    call,
    digests,
    drawn,
    features,
    label_raster,
    scene,
    seggeo,
    succeed,
    write_labels,
    write_model,
    write_picture,
)
from support_io import write
from support_models import make_maskrcnn_weights
from support_models import scene as discs
from support_sam import SETTINGS, SIDE, blob_image, make_sam_weights
from support_scenes import same_partition

OUTPUTS = ("-f", "gpkg,cog,fgb", "--workers", "1", "--no-preview", "--json")


def test_a_toy_mask_rcnn(tmp_path: Path):
    write(tmp_path / "scene.tif", discs(300).transpose(2, 0, 1))
    make_maskrcnn_weights(tmp_path / "toy.safetensors")
    command = ("segment", "scene.tif", "--model", "maskrcnn", "--weights", "toy.safetensors", "--tile", "160", *OUTPUTS)

    (summary,) = succeed(*command, "--overlap", "40", "--profile", "-o", "a", cwd=tmp_path).results

    assert summary["profile"]["phases"]["encode"]["seconds"] > 0
    table = features(tmp_path / summary["outputs"]["gpkg"])
    assert len(table) == summary["objects"] > 5
    assert set(table["class"]) <= {"class_1", "class_2"}
    assert table["score"].between(0.5, 1).all()
    r = summary["readings"]
    assert r["inputs"] == r["kept"] + r["merged"] + r["duplicates"] + r["orphans"] + r["hidden"]


def test_tiles_that_reach_a_limit_are_reported(tmp_path: Path):
    write(tmp_path / "scene.tif", discs(200).transpose(2, 0, 1))
    make_maskrcnn_weights(tmp_path / "toy.safetensors")

    ran = succeed(
        "segment", "scene.tif", "--model", "maskrcnn", "--weights", "toy.safetensors", "--set", "detections=3", *OUTPUTS,
        "-q", cwd=tmp_path,
    )  # fmt: skip

    assert ran.results[0]["capped_tiles"] >= 1
    assert "reached a limit" in ran.err


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of blobs with cores and a toy Segment Anything that finds both."""
    folder = tmp_path_factory.mktemp("sam")
    write(folder / "scene.tif", blob_image(224, 224).transpose(2, 0, 1))
    make_sam_weights(folder / "sam.safetensors")
    return folder


@pytest.mark.parametrize("nested", ["all", "whole", "part", "flat"])
def test_a_toy_sam_and_its_nested_masks(sam_folder: Path, nested: str):
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]

    (summary,) = succeed(
        "segment", "scene.tif", "--model", "sam", "--weights", "sam.safetensors", "--tile", str(SIDE), *settings,
        "--stretch", "none", "--nested", nested, "-o", nested, *OUTPUTS, cwd=sam_folder,
    ).results  # fmt: skip

    table = features(sam_folder / summary["outputs"]["gpkg"])
    raster = label_raster(sam_folder / summary["outputs"]["cog"])
    assert len(table) > 3
    inside = len(table.sjoin(table, predicate="covered_by")) - len(table)
    if nested == "all":
        assert inside > 0, "blobs have cores, so some mask lies in another"
    if nested == "flat":
        assert (drawn(table, sam_folder / summary["outputs"]["cog"]) == raster).all()
        assert table["area_px"].sum() == (raster > 0).sum()
    if nested in ("whole", "part"):
        assert inside == 0


@pytest.mark.parametrize("model", ["regions", "threshold"])
def test_models_without_weights(tmp_path: Path, model: str):
    write_picture(tmp_path / "scene.tif", scene("discs", 5, (200, 220)))

    (summary,) = succeed("segment", "scene.tif", "--model", model, "--json", "-f", "cog", *SMALL, cwd=tmp_path).results

    assert summary["objects"] > 0
    raster = label_raster(tmp_path / summary["outputs"]["cog"])
    assert (raster > 0).all() if model == "regions" else (raster > 0).any()


@pytest.fixture(scope="module")
def both_precisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy weights rounded to half precision, saved as such and as single precision, described as bundled."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    make_maskrcnn_weights(folder / "toy.safetensors", arch="mobilenet_v3_large")
    with safe_open(folder / "toy.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["seggeo"]) | {"model": "maskrcnn", "title": "toy", "licence": "CC0-1.0"}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    singles = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in halves.items()}
    for name, tensors in (("halves", halves), ("singles", singles)):
        save_file(tensors, folder / f"{name}.safetensors", metadata={"seggeo": json.dumps(facts)})
    return folder


@pytest.fixture
def installed(tmp_path: Path, both_precisions: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Toy weights that came along as `nuclei`, the same as a file, and a picture of bright spots on black, in one folder."""
    from seggeo.models import bundled

    (tmp_path / "own").mkdir()
    shutil.copy(both_precisions / "halves.safetensors", tmp_path / "own" / "nuclei.safetensors")
    shutil.copy(both_precisions / "singles.safetensors", tmp_path)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "own")
    picture = np.where(discs(160) > 150, discs(160), 4).astype(np.uint8)
    write(tmp_path / "spots.tif", picture.transpose(2, 0, 1), crs=None)
    return tmp_path


def test_weights_that_came_along_are_found_by_either_name_and_in_half_precision(installed: Path):
    found = {}
    for out, model in (
        ("a", ("--model", "nuclei")), ("b", ("--model", "maskrcnn", "--weights", "nuclei")), ("c", ("--weights", "nuclei")),
        ("d", ("--weights", "singles.safetensors")),
    ):  # fmt: skip
        succeed("segment", "spots.tif", *model, "-o", out, *OUTPUTS, cwd=installed)
        found[out] = json.loads((installed / out / "spots_provenance.json").read_text())

    labels = {out: label_raster(installed / out / "spots_labels.tif") for out in found}
    assert labels["a"].max() > 3
    assert all((labels["a"] == other).all() for other in labels.values())
    assert len({values["tile_key"] for out, values in found.items() if out != "d"}) == 1
    assert len({values["job"]["model"]["weights_sha256"] for values in found.values()}) == 2
    assert [found[out]["job"]["choice"] is None for out in "abcd"] == [True, True, False, False]


def test_auto_says_what_it_took_and_why_and_records_it(installed: Path):
    ran = succeed("segment", "spots.tif", *OUTPUTS, cwd=installed)
    plan = succeed("segment", "spots.tif", "--dry-run", cwd=installed)
    named = succeed("segment", "spots.tif", "--model", "nuclei", *OUTPUTS, cwd=installed)

    (line,) = [line for line in ran.err.splitlines() if "auto took" in line]
    assert "nuclei because" in line
    assert "--model" in line
    assert "auto takes nuclei because" in plan.out
    assert "model nuclei (maskrcnn)" in ran.err
    choice = json.loads((installed / "spots_provenance.json").read_text())["job"]["choice"]
    assert (choice["model"], choice["kind"]) == ("nuclei", "fluorescence")
    assert json.loads((installed / "spots.seggeo/job.json").read_text())["choice"] == choice
    assert "done already" in named.err, "named or chosen, it is the same job"


def test_auto_without_its_weights_says_so_and_falls_to_threshold(installed: Path):
    (installed / "own" / "nuclei.safetensors").unlink()

    ran = succeed("segment", "spots.tif", *OUTPUTS, cwd=installed)

    assert ran.results[0]["model"] == "threshold"
    assert ran.results[0]["objects"] > 0
    assert "not in this installation" in ran.err


def test_sizes_reach_the_model_and_are_part_of_the_job(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (140, 140)), transform=None, crs=None)
    sized = ORACLE.replace(
        "    native = True\n", "    native = True\n\n    def __init__(self, diameter=0, mpp=0):\n        pass\n"
    )
    write_model(tmp_path, sized)
    job = ("segment", "scene.tif", "--model", "oracle.py:Oracle", "--json", *SMALL)

    succeed(*job, "--diameter", "30", "--mpp", "0.5", cwd=tmp_path)
    other = call(*job, "--diameter", "31", "--mpp", "0.5", cwd=tmp_path)
    (plan,) = succeed(*job, "--diameter", "31", "--dry-run", "-o", "new", cwd=tmp_path).results
    refused = call("segment", "scene.tif", "--model", "regions", "--diameter", "30", *SMALL, "-o", "no", cwd=tmp_path)

    settings = json.loads((tmp_path / "scene_provenance.json").read_text())["job"]["model"]["settings"]
    assert settings == {"diameter": 30.0, "mpp": 0.5}
    assert other.code == 5
    assert plan["settings"]["diameter"] == {"value": 31.0, "from": "--diameter"}
    assert refused.code == 2
    assert "regions has no use for --diameter" in refused.refusal()[0]


def test_models_list_and_info_show_what_came_along(installed: Path):
    listed = succeed("models", "list", cwd=installed).out
    as_json = succeed("models", "list", "--json", cwd=installed).results[0]
    told = succeed("models", "info", "nuclei", cwd=installed).out

    assert "nuclei  for --model maskrcnn, CC0-1.0, bundled, toy" in listed
    (entry,) = as_json["bundled"]
    assert (entry["name"], entry["model"], entry["licence"]) == ("nuclei", "maskrcnn", "CC0-1.0")
    assert entry["sha256"] in told
    assert "anchors" in told


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_one_bad_tile_costs_one_tile_and_can_be_mended(tmp_path: Path, how: str):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, FRAGILE, "fragile.py")
    broken = tmp_path / "broken"
    command = ("segment", "scene.tif", "--model", "fragile.py:Fragile", "--set", f"how={how}", "-f", "gpkg,cog", *SMALL)
    succeed(*command, "-o", "clean", cwd=tmp_path, BROKEN=str(broken))
    whole = label_raster(tmp_path / "clean" / "scene_labels.tif")

    broken.touch()
    ran = call(*command, "-o", "out", "--json", cwd=tmp_path, BROKEN=str(broken))

    assert ran.code == 4
    assert "1 of 9 tiles failed" in ran.refusal()[0]
    assert ("too much for me" if how == "raise" else "score of nan") in ran.refusal()[1]
    failures = [json.loads(line) for line in (tmp_path / "out/scene.seggeo/failures.jsonl").read_text().splitlines()]
    assert [(f["tile"], f["row"], f["col"], f["height"], f["width"]) for f in failures] == [(4, 96, 96, 128, 128)]
    found = label_raster(tmp_path / "out" / "scene_labels.tif")
    reach = np.zeros(found.shape, bool)
    reach[96:224, 96:224] = True
    elsewhere = np.setdiff1d(np.unique(whole), np.unique(whole[reach]))
    assert len(elsewhere) > 3
    for number in elsewhere:
        there = whole == number
        assert len(np.unique(found[there])) == 1
        assert ((found == found[there][0]) == there).all()
    assert call(*command, "-o", "out", "--allow-partial", cwd=tmp_path, BROKEN=str(broken)).code == 0

    broken.unlink()
    succeed(*command, "-o", "out", cwd=tmp_path, BROKEN=str(broken))
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("tile.astype('float32')[:, :, 0]", "float32"),
        ("tile[:5, :, 0].astype('int32')", "shape"),
        ("'three houses'", "str"),
        ("{'masks': tile[None, :, :, 0] > 0, 'scores': [1, 2]}", "scores"),
        ("None", "NoneType"),
        ("tile[:, :, 0] > 0", "boolean"),
    ],
)
def test_results_of_the_wrong_kind_are_named(tmp_path: Path, result: str, says: str):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (140, 140)))
    write_model(tmp_path, ORACLE.replace('tile[:, :, 0].astype("int32")', result))

    ran = call("segment", "scene.tif", "--model", "oracle.py:Oracle", *SMALL, cwd=tmp_path)

    assert ran.code == 6
    assert says in "".join(ran.refusal()), ran.err
    assert not (tmp_path / "scene_objects.gpkg").exists()


@pytest.mark.parametrize(
    ("model", "code"),
    [("class Oracle:\n    pass\n", 6), ("import nothing_of_that_name\n", 6), ("def Oracle(: pass\n", 6), ("x = 1\n", 2)],
)
def test_files_that_hold_no_model_are_refused_and_nothing_is_made(tmp_path: Path, model: str, code: int):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (140, 140)))
    write_model(tmp_path, model)
    before = below(tmp_path)

    ran = call("segment", "scene.tif", "--model", "oracle.py:Oracle", *SMALL, cwd=tmp_path)

    assert ran.code == code
    ran.refusal()
    assert below(tmp_path) == before


@pytest.mark.parametrize(
    "deed",
    [
        "__import__('ctypes').string_at(0)",
        *(pytest.param(deed, marks=pytest.mark.slow) for deed in ("os._exit(9)", "os.abort()")),
    ],
)
def test_a_tile_that_ends_its_process_costs_itself_alone(tmp_path: Path, deed: str):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, FRAGILE.replace('raise ValueError("the fifth tile is too much for me")', deed), "fragile.py")
    command = ("segment", "scene.tif", "--model", "fragile.py:Fragile", "-f", "gpkg,cog", *SMALL, "--workers", "2")
    clean = seggeo(*command, "-o", "clean", cwd=tmp_path, BROKEN="broken")
    assert clean.code == 0, clean.err
    (tmp_path / "broken").touch()

    ran = seggeo(*command, "-o", "out", cwd=tmp_path, BROKEN="broken")

    assert ran.code == 4, ran.err
    assert "1 of 9 tiles failed" in ran.refusal()[0]
    (failure,) = [json.loads(line) for line in (tmp_path / "out/scene.seggeo/failures.jsonl").read_text().splitlines()]
    assert (failure["tile"], failure["error"]) == (4, "ProcessDied")
    whole, found = (label_raster(tmp_path / name / "scene_labels.tif") for name in ("clean", "out"))
    assert ((found > 0) == (whole > 0))[np.r_[0:96, 224:320]].all(), "tiles beside it are as they were"
    (tmp_path / "broken").unlink()
    assert seggeo(*command, "-o", "out", cwd=tmp_path, BROKEN="broken").code == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


def test_a_model_that_always_ends_its_process_is_a_resource_error(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(
        tmp_path, ORACLE.replace("def predict(self, tiles):", "def predict(self, tiles):\n        import os; os._exit(9)")
    )

    ran = seggeo("segment", "scene.tif", "--model", "oracle.py:Oracle", *SMALL, "--workers", "2", cwd=tmp_path)

    assert ran.code == 7
    assert "worker" in ran.refusal()[0]
    assert not (tmp_path / "scene_objects.gpkg").exists()


@pytest.mark.parametrize(
    ("most", "raised"),
    [
        pytest.param(320, "MemoryError('no more')", marks=pytest.mark.slow),
        (200, "MemoryError('no more')"),
        (320, "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')"),
        pytest.param(200, "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", marks=pytest.mark.slow),
    ],
)
def test_tiles_that_do_not_fit_in_memory_are_divided(tmp_path: Path, most: int, raised: str):
    write_labels(tmp_path / "scene.tif", scene("snakes", 4, (900, 1000)))
    hungry = ORACLE.replace("tiles):", f"tiles):\n        if tiles[0].shape[0] > {most}: raise {raised}")
    write_model(tmp_path, hungry, "hungry.py")
    write_model(tmp_path, ORACLE)
    command = ("segment", "scene.tif", "-f", "gpkg,cog", "--tile", "512", "--overlap", "64", "--workers", "1", "--no-preview")
    succeed(*command, "--model", "oracle.py:Oracle", "-o", "clean", cwd=tmp_path)

    succeed(*command, "--model", "hungry.py:Oracle", "-o", "out", cwd=tmp_path)

    wanted, found = (label_raster(tmp_path / name / "scene_labels.tif") for name in ("clean", "out"))
    assert same_partition(wanted, found)


def test_memory_that_runs_out_everywhere_is_a_resource_error(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, ORACLE.replace("tiles):", "tiles):\n        raise MemoryError('no more')"))

    ran = call("segment", "scene.tif", "--model", "oracle.py:Oracle", *SMALL, cwd=tmp_path)

    assert ran.code == 7
    assert "memory" in ran.refusal()[0]
