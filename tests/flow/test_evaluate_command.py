"""`seggeo evaluate` as people use it: every kind of file, folders, runs, what it writes and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support_evaluate import boxes_image, poor_copy
from support_flow import ORACLE, SMALL, call, label_raster, scene, succeed, write_labels, write_model, write_picture

import seggeo
from seggeo.instances import Instances


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, its truth with flaws against the oracle's reading of it, and a finished run in every format."""
    folder = tmp_path_factory.mktemp("evaluate")
    labels = scene("discs", 5, (300, 340))
    write_labels(folder / "labels.tif", labels)
    write_picture(folder / "picture.tif", labels)
    write_labels(folder / "truth.tif", poor_copy(np.random.default_rng(2), labels.astype(np.int64)))
    write_model(folder, ORACLE)
    succeed(
        "segment",
        "labels.tif",
        "--model",
        "oracle.py:Oracle",
        "-f",
        "gpkg,cog,parquet,geojson",
        "-o",
        "run",
        *SMALL,
        cwd=folder,
    )
    (folder / "truth.json").write_text(json.dumps(coco_of(label_raster(folder / "truth.tif"), "labels.tif")))
    return folder


def coco_of(labels: np.ndarray, name: str) -> dict:
    from pycocotools import mask as coco_mask

    entries = []
    for i in np.unique(labels[labels > 0]):
        coded = coco_mask.encode(np.asfortranarray(labels == i).astype(np.uint8))
        coded["counts"] = coded["counts"].decode()
        entries.append({"id": int(i), "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": coded})
    image = {"id": 1, "file_name": name, "height": labels.shape[0], "width": labels.shape[1]}
    return {"images": [image], "annotations": entries, "categories": [{"id": 1, "name": "object"}]}


def flat(pooled: dict) -> dict:
    """All scores under one level of names, -1 for null."""
    rows = {f"{key}@{row['iou']}": value for row in pooled["thresholds"] for key, value in row.items()}
    whole = {**{key: value for key, value in pooled.items() if key != "thresholds"}, **rows}
    return {key: -1 if value is None else value for key, value in whole.items()}


def evaluate(*args: str | Path, cwd: Path) -> dict:
    (values,) = succeed("evaluate", *args, "--json", cwd=cwd).results
    return values


def test_every_kind_of_file_gives_the_same_scores(folder: Path):
    direct = seggeo.evaluate(
        label_raster(folder / "run" / "labels_labels.tif").astype(np.int64), label_raster(folder / "truth.tif").astype(np.int64)
    ).to_json()
    for pred in ("labels.tif", "run/labels_labels.tif", "run/labels_objects.gpkg", "run/labels_objects.parquet"):
        found = evaluate(pred, "truth.tif", cwd=folder)

        assert flat(found["pooled"]) == pytest.approx(flat(direct["pooled"]), rel=1e-12), pred
        assert (found["coco"] is None) == pred.endswith(".tif")
    for pred in ("run/labels_labels.tif", "labels.tif"):
        assert evaluate(pred, "truth.json", cwd=folder)["pooled"]["pq"] == pytest.approx(direct["pooled"]["pq"])
    both = evaluate("run/labels_objects.gpkg", "run/labels_objects.gpkg", "--image", "picture.tif", cwd=folder)
    assert (both["pooled"]["pq"], both["coco"]["ap"]) == (1, pytest.approx(1))


def test_near_seams_and_interior_are_told_apart_by_the_run_folder(folder: Path):
    found = evaluate("run/labels_objects.gpkg", "truth.tif", "--run", "run/labels.seggeo", cwd=folder)
    near, interior = found["seams"]["near"], found["seams"]["interior"]

    assert near["n_true"] + interior["n_true"] == found["pooled"]["n_true"]
    assert min(near["n_true"], interior["n_true"]) > 0
    assert near["tp"] + interior["tp"] == found["pooled"]["tp"]
    alone = evaluate("run/labels_objects.gpkg", "run/labels_objects.gpkg", "--run", "run/labels.seggeo", cwd=folder)
    assert alone["seams"]["near"]["pq"] == 1


def test_table_rows_and_figure(folder: Path, tmp_path: Path):
    table, figure = tmp_path / "objects.csv", tmp_path / "figure.png"
    asked = ("--per-object", table, "--figure", figure, "--image", "picture.tif", "--threshold", "0.5,0.75")
    ran = succeed("evaluate", "run/labels_objects.gpkg", "truth.tif", *asked, cwd=folder)
    values = evaluate("run/labels_objects.gpkg", "truth.tif", cwd=folder)["pooled"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert f"{values['pq']:.3f}" in ran.out.splitlines()[1]
    assert [line.split()[0] for line in ran.out.splitlines() if line.strip().startswith("0.")] == ["0.50", "0.75"]
    assert len(rows) == values["n_true"] + values["n_pred"]
    assert sum(r["outcome"] == "hit" and r["side"] == "truth" for r in rows) == values["tp"]
    assert sum(r["outcome"] == "false alarm" for r in rows) == values["fp"]
    assert all(r["partner"] for r in rows if r["outcome"] == "hit")
    assert figure.read_bytes().startswith(b"\x89PNG")
    again = call("evaluate", "labels.tif", "truth.tif", "--per-object", table, cwd=folder)
    assert again.code == 5
    assert "--overwrite" in again.refusal()[2]
    succeed("evaluate", "labels.tif", "truth.tif", "--per-object", table, "--overwrite", cwd=folder)


def test_an_input_is_never_written_over(folder: Path):
    ran = call("evaluate", "labels.tif", "truth.tif", "--per-object", "truth.tif", "--overwrite", cwd=folder)

    assert ran.code == 5
    assert "input" in ran.refusal()[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small images without a place on the map, predictions under our own names, and an index of kinds."""
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(8)
    for name in ("pred", "truth"):
        (folder / name).mkdir()
    for i in range(5):
        labels = boxes_image(rng, 40, 15)
        labels[20:30, 5:15] = 50
        write_labels(folder / "truth" / f"im{i}.tif", labels, geo=False)
        write_labels(folder / "pred" / f"im{i}_labels.tif", poor_copy(rng, labels), geo=False)
    (folder / "pred" / "im0_preview.png").write_bytes(b"not a label file")
    kinds = ("cells", "cells", "tissue", "tissue", "tissue")
    lines = [f"im{i},{kind},{'val' if i else 'train'}" for i, kind in enumerate(kinds)]
    (folder / "index.csv").write_text("\n".join(["name,kind,split", *lines]))
    return folder


def test_folders_are_matched_by_name_and_pooled(dataset: Path):
    found = evaluate("pred", "truth", "--groups", "index.csv:kind", cwd=dataset)
    alone = [evaluate(f"pred/im{i}_labels.tif", f"truth/im{i}.tif", cwd=dataset)["pooled"] for i in range(5)]

    assert [i["name"] for i in found["per_image"]] == [f"im{i}" for i in range(5)]
    assert [i["pq"] for i in found["per_image"]] == [a["pq"] for a in alone]
    assert found["pooled"]["tp"] == sum(a["tp"] for a in alone)
    assert found["mean"]["pq"] == pytest.approx(np.mean([a["pq"] for a in alone if a["pq"] is not None]))
    assert {name: group["images"] for name, group in found["groups"].items()} == {"cells": 2, "tissue": 3}
    assert found["groups"]["cells"]["pooled"]["tp"] == alone[0]["tp"] + alone[1]["tp"]
    table = succeed("evaluate", "pred", "truth", "--groups", "index.csv:kind", "--where", "split=val", cwd=dataset).out
    assert "mean over images" in table
    assert "im1" in table
    assert "im0" not in table


def test_coco_of_several_images_is_a_data_set(dataset: Path, tmp_path: Path):
    parts = [coco_of(label_raster(dataset / "truth" / f"im{i}.tif"), f"sub/im{i}.png") for i in range(5)]
    for i, part in enumerate(parts):
        part["images"][0]["id"] = i + 1
        for entry in part["annotations"]:
            entry["image_id"], entry["id"] = i + 1, entry["id"] + 1000 * i
    joined = {key: [e for part in parts for e in part[key]] for key in ("images", "annotations")}
    (tmp_path / "truth.json").write_text(json.dumps({**joined, "categories": parts[0]["categories"]}))

    assert evaluate(dataset / "pred", tmp_path / "truth.json", cwd=tmp_path)["per_image"] == evaluate(
        dataset / "pred", dataset / "truth", cwd=tmp_path
    )["per_image"]  # fmt: skip


def test_what_one_side_lacks_is_an_error_unless_allowed(dataset: Path, tmp_path: Path):
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred" / "im3.tif").write_bytes((dataset / "truth" / "im3.tif").read_bytes())
    lacking = call("evaluate", "pred", dataset / "truth", cwd=tmp_path)

    assert lacking.code == 2
    assert "4 images have no prediction: im0, im1, im2" in lacking.refusal()[0]
    assert evaluate("pred", dataset / "truth", "--allow-missing", cwd=tmp_path)["pooled"]["pq"] == 1


@pytest.mark.parametrize(
    ("asked", "code", "word"),
    [
        (("run/labels_objects.gpkg", "run/labels_objects.gpkg"), 2, "--image"),
        (("small.tif", "truth.tif"), 3, "300 x 340"),
        (("elsewhere.tif", "truth.tif"), 3, "one place"),
        (("run/labels.seggeo", "truth.tif"), 2, "run folder"),
        (("absent.tif", "truth.tif"), 3, "absent.tif"),
        (("oracle.py", "truth.tif"), 3, "oracle.py"),
        (("labels.tif", "truth.tif", "--threshold", "half"), 2, "half"),
        (("labels.tif", "truth.tif", "--threshold", "1.5"), 2, "1.5"),
        (("labels.tif", "truth.tif", "--run", "."), 3, "job.json"),
        (("labels.tif", "truth.tif", "--where", "a=b"), 2, "--groups"),
        (("labels.tif", "truth.tif", "--groups", "absent.csv:kind"), 3, "absent.csv"),
        (("labels.tif", "truth.tif", "--per-object", "none/rows.csv"), 5, "none"),
        (("run/labels_objects.gpkg", "truth.tif", "--pred-attribute", "colour"), 2, "colour"),
        (("labels.tif", "truth.tif", "--figure", "f.png", "--image", "small.tif"), 2, "150 x 170"),
    ],
)
def test_refusals_name_the_trouble(folder: Path, asked: tuple[str, ...], code: int, word: str):
    labels = label_raster(folder / "labels.tif")
    if not (folder / "small.tif").exists():
        write_labels(folder / "small.tif", labels[::2, ::2])
        write_labels(folder / "elsewhere.tif", labels, transform=(0.5, 0, 500001, 0, -0.5, 5200000))
    ran = call("evaluate", *asked, cwd=folder)

    assert ran.code == code, ran.err
    assert word in "\n".join(ran.refusal())
    assert ran.out == ""


def test_columns_and_numbers_of_the_page_are_those_of_the_program(folder: Path, tmp_path: Path):
    from support_docs import tables

    succeed("evaluate", "labels.tif", "truth.tif", "--per-object", tmp_path / "rows.csv", cwd=folder)
    values = evaluate("labels.tif", "truth.tif", cwd=folder)
    header = (tmp_path / "rows.csv").read_text().splitlines()[0].replace('"', "").split(",")

    assert [row[0] for row in tables("evaluation.md", "One row per object")[1:]] == header
    assert [row[0] for row in tables("evaluation.md", "The JSON")[1:]] == list(values)
    listed = {row[0] for row in tables("evaluation.md", "What is counted")[1:]}
    assert listed == set(values["pooled"]) - {"thresholds"} | set(values["pooled"]["thresholds"][0])


def test_instances_in_memory_are_a_side_too(folder: Path):
    labels = label_raster(folder / "labels.tif").astype(np.int64)

    assert seggeo.evaluate(Instances.from_labels(labels), folder / "labels.tif").pooled.pq == 1


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]):
    from support_docs import code_blocks

    (block,) = code_blocks("evaluation.md", "python")
    exec(block, {})

    assert len(capsys.readouterr().out.split()) == 3
