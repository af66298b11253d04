"""Options that have no meaning for an input are refused before anything is predicted, never left aside in silence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_flow import PLAIN, below, call, succeed, write_picture
from support_slides import tissue, write_ome, write_svs

from seggeo import segment
from seggeo.config import Reading
from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.models.preferences import preferred

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, a slide and a photograph through a microscope; none is written to."""
    folder = tmp_path_factory.mktemp("inputs")
    labels = np.kron(np.arange(1, 17, dtype=np.int32).reshape(4, 4), np.ones((40, 40), np.int32))
    write_picture(folder / "map.tif", labels)
    write_svs(folder / "slide.svs", tissue(300, 400), mpp=0.5)
    Image.fromarray(tissue(200, 300)).save(folder / "photo.png")
    (folder / "areas.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": SQUARE}))
    return folder


@pytest.mark.parametrize(
    ("name", "options", "code", "told"),
    [
        ("map.tif", ["--mpp", "0.5"], 2, ("--mpp 0.5", "--gsd")),
        ("map.tif", ["--work-mpp", "1"], 2, ("--work-mpp 1", "--gsd")),
        ("map.tif", ["--mpp", "0.5", "--gsd", "1"], 2, ("--mpp 0.5", "--gsd")),
        ("map.tif", ["--channel", "red"], 2, ("--channel red", "--bands")),
        ("photo.png", ["--channel", "2"], 2, ("--channel 2", "--bands")),
        ("photo.png", ["--work-mpp", "1"], 3, ("how large its pixels are", "--mpp")),
        ("photo.png", ["--mpp", "0.5", "--gsd", "1"], 2, ("GSD of 1 m", "--work-mpp")),
        ("slide.svs", ["--gsd", "0.3"], 2, ("GSD of 0.3 m", "--work-mpp")),
        ("slide.svs", ["--bands", "1", "--channel", "2"], 2, ("bands 1 and channels 2", "--bands and --channel")),
        ("map.tif", ["--bands", "1", "--channel", "2"], 2, ("bands 1 and channels 2", "--bands and --channel")),
        ("slide.svs", ["--regions", "areas.geojson"], 2, ("--regions without a table", "-f auto,cells")),
        ("slide.svs", ["--positive", "dab>0.2", "-f", "cog"], 2, ("--positive with -f cog", "-f cog,cells")),
        ("slide.svs", ["--positive", "dab", "-f", "cells"], 2, ("--positive dab", "dab>0.25")),
        ("slide.svs", ["--regions", "none.geojson", "-f", "cells-csv"], 2, ("none.geojson", "QuPath")),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_before_any_work(
    inputs: Path, tmp_path: Path, name: str, options: list[str], code: int, told: tuple[str, str]
):
    ran = call("segment", name, *PLAIN, *options, "-o", tmp_path, cwd=inputs)

    assert ran.code == code, ran.err
    error, _, fix = ran.refusal()
    assert told[0] in error
    assert told[1] in fix
    assert not below(tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("photo.png", ["--mpp", "0.5", "--work-mpp", "1"]),
        ("photo.png", ["--bands", "2"]),
        ("slide.svs", ["--mpp", "0.5", "--work-mpp", "1"]),
        ("slide.svs", ["--bands", "3,2,1"]),
        ("map.tif", ["--gsd", "1"]),
        ("slide.svs", ["--regions", "areas.geojson", "--positive", "dab>0.2", "-f", "cells,cog"]),
    ],
)
def test_what_has_a_meaning_is_obeyed(inputs: Path, tmp_path: Path, name: str, options: list[str]):
    """As the dry run tells, which opens and checks what a run would."""
    (plan,) = succeed("segment", name, *PLAIN, *options, "-o", tmp_path, "--dry-run", "--json", cwd=inputs).results

    settings = {key: entry["value"] for key, entry in plan["settings"].items()}
    if "--bands" in options:
        assert settings["bands"] == {"2": ["green"] * 3, "3,2,1": ["blue", "green", "red"]}[options[1]]
    if "--work-mpp" in options or "--gsd" in options:
        assert plan["width"] == {"photo.png": 150, "slide.svs": 200, "map.tif": 80}[name]


def test_a_dry_run_refuses_what_a_run_would(inputs: Path, tmp_path: Path):
    for options in (["--regions", "none.geojson", "-f", "cells"], ["--positive", "dab", "-f", "cells"], ["--gsd", "1"]):
        ran = call("segment", "slide.svs", *PLAIN, *options, "-o", tmp_path, "--dry-run", cwd=inputs)
        assert ran.code == 2, ran.err


def test_from_python_too(inputs: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="--positive without a table"):
        segment(inputs / "slide.svs", tmp_path, model="threshold", positive="dab>0.2")


def test_an_option_that_does_not_fit_one_slide_costs_that_slide_alone(inputs: Path, tmp_path: Path):
    """`--channel` has a meaning for the slide, and none for the photograph beside it."""
    planes = np.random.default_rng(1).integers(0, 900, (2, 200, 300)).astype(np.uint16)
    write_ome(tmp_path / "slide.ome.tif", planes, names=("DAPI", "CD3"))
    (tmp_path / "photo.png").write_bytes((inputs / "photo.png").read_bytes())
    job = ("count-cells", "slide.ome.tif", "photo.png", *PLAIN, "-f", "cells", "--pixels", "-o", "out")

    ran = call(*job, "--channel", "CD3", cwd=tmp_path)

    assert ran.code == 4, ran.err
    with (tmp_path / "out" / "errors.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["exit"], row["error"]) == ("photo", "2", "ConfigError")
    assert "--bands" in row["fix"]
    with (tmp_path / "out" / "counts.csv").open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["slide"]
    wrong_for_all = call(*job, "--channel", "CD3", "--bands", "1", cwd=tmp_path)
    assert wrong_for_all.code == 2
    assert "bands 1 and channels CD3" in wrong_for_all.refusal()[0]
    both = succeed("count-cells", "photo.png", *job[3:], "--bands", "2", cwd=tmp_path)
    assert both.code == 0


def test_weights_do_not_choose_bands_where_the_user_has_chosen_channels(tmp_path: Path):
    from safetensors.numpy import save_file

    weights = tmp_path / "own.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, weights, {"seggeo": json.dumps({"model": "unet", "bands": [2, 1]})})
    frame = Frame(height=10, width=10)

    assert preferred(Reading(channel=("DAPI",)), weights, frame).bands is None
    assert preferred(Reading(), weights, frame).bands == (2, 1)
