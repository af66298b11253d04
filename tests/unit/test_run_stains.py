"""A job's stain normalisation: fitted once, recorded, the same in every tile, off unless asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from support_flow import scene, write_labels
from support_slides import SVS, needs_svs, write_ome, write_svs
from support_stains import OTHER, USUAL, amounts, composed

import seggeo.io as image_io
from seggeo import count_cells
from seggeo.config import Reading, settings_from
from seggeo.errors import ConfigError, SeggeoWarning
from seggeo.instances import Instances
from seggeo.io.stains import REFERENCE, apply_stains
from seggeo.job import Job
from seggeo.protocols import ModelInfo, Prediction, TileImage
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import Plan, make_plan, overview_image

SHAPE = (300, 410)


class Recorder:
    """A segmenter that keeps what it is shown and finds nothing."""

    def __init__(self) -> None:
        self.info = ModelInfo(name="recorder", batch=3)
        self.seen: list[TileImage] = []

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        self.seen += tiles
        return [Prediction(instances=Instances.from_labels(np.zeros(tile.valid.shape, np.int32))) for tile in tiles]


def plan_of(path: Path, **values: object) -> Plan:
    settings, execution = settings_from({"model": "threshold", "device": "cpu", "tile": 128, "overlap": 32} | values)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no CRS", category=SeggeoWarning)
        return make_plan(str(path), settings, execution)


def seen(path: Path, plan: Plan) -> NDArray[np.uint8]:
    """The picture that a model is shown, put together from tiles; where they overlap they agree."""
    model = Recorder()
    bench = set_up(Recipe(path=str(path), reading=plan.settings.reading, job=plan.job, request=plan.request), model)
    try:
        for part in range(len(plan.job.parts)):
            predict_part(bench, part)
    finally:
        bench.close()
    whole = np.zeros((*plan.job.frame.window.shape, 3), np.int16) - 1
    for tile in model.seen:
        place = whole[tile.extent.slices()]
        assert ((place == -1) | (place == tile.image)).all()
        place[...] = tile.image
    return whole.astype(np.uint8)


@pytest.fixture
def field(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "field.tif", composed(amounts(SHAPE), OTHER), photometric="rgb")
    return tmp_path / "field.tif"


@pytest.mark.parametrize("tile", [64, 200, 512])
def test_tiles_of_any_size_show_the_same_bytes(field: Path, tile: int):
    plan = plan_of(field, stain_norm="macenko", tile=tile)

    found = seen(field, plan)

    stains = plan.shown.stains
    assert stains.kind == "macenko"
    assert np.array_equal(found, apply_stains(stains, tifffile.imread(field)))
    assert np.array_equal(found, overview_image(plan)), "the preview shows what the model saw"


def test_what_was_fitted_is_in_the_job_and_tells_jobs_apart(field: Path):
    plain, job = (plan_of(field, stain_norm=kind).job for kind in ("none", "macenko"))

    stains = job.stretch["stains"]

    assert (stains["kind"], stains["why"]) == ("macenko", "")
    assert stains["target"] == REFERENCE.to_json()
    assert np.allclose(stains["own"]["vectors"], OTHER.vectors, atol=0.06)
    assert Job.from_json(job.to_json()) == job
    assert image_io.Stretch.from_json(job.stretch).stains.own is not None
    assert plain.tile_key != job.tile_key
    assert (plain.reading["stain_norm"], job.reading["stain_norm"]) == ("none", "macenko")
    assert plan_of(field, stain_norm="macenko").job == job, "fitted again it is the same"


def test_off_by_default_nothing_changes(field: Path):
    plan = plan_of(field)

    assert "stains" not in plan.job.stretch
    assert np.array_equal(seen(field, plan), tifffile.imread(field))
    assert plan.job == plan_of(field, stain_norm="none").job


def test_two_scanners_slides_look_alike_also_where_tissue_alone_is_read(tmp_path: Path):
    found = amounts((600, 800))
    shown = []
    for name, stains in (("a", USUAL), ("b", OTHER)):
        path = write_svs(tmp_path / f"{name}.svs", composed(found, stains), mpp=1.0)
        plan = plan_of(path, stain_norm="macenko", tissue="auto")
        shown.append((seen(path, plan).astype(int), plan.overview.valid))
    inside = shown[0][1] & shown[1][1]

    assert 0.3 < inside.mean() < 0.95
    assert np.abs(shown[0][0] - shown[1][0])[inside].mean() < 6


def test_a_model_is_chosen_by_what_the_file_shows(field: Path):
    plain, job = (plan_of(field, model="auto", diameter=12, stain_norm=kind).job for kind in ("none", "macenko"))

    assert plain.choice is not None
    assert job.choice == plain.choice


@pytest.mark.parametrize(("value", "why"), [(244, "only 0 of"), (None, "one colour")])
def test_a_slide_without_two_stains_is_left_as_it_is_and_says_so(tmp_path: Path, value: int | None, why: str):
    found = amounts(SHAPE)
    found[..., 1] = 0
    image = composed(found, USUAL) if value is None else np.full((*SHAPE, 3), value, np.uint8)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, image, photometric="rgb")

    with pytest.warns(SeggeoWarning, match=f"stains are left as they are, because .*{why}"):
        plan = plan_of(path, stain_norm="macenko")

    assert plan.job.stretch["stains"]["kind"] == "none"
    assert why in plan.job.stretch["stains"]["why"]
    assert np.array_equal(seen(path, plan), image)


def test_maps_fluorescence_and_native_models_are_refused(tmp_path: Path, field: Path):
    write_labels(tmp_path / "map.tif", scene("discs", 1, (60, 70)))
    with pytest.raises(ConfigError, match="--stain-norm") as refused:
        plan_of(tmp_path / "map.tif", stain_norm="macenko")
    assert refused.value.exit_code == 2

    planes = np.random.default_rng(1).integers(0, 900, (2, 300, 300)).astype(np.uint16)
    write_ome(tmp_path / "cells.ome.tif", planes, names=["DAPI", "GFP"])
    with pytest.raises(ConfigError, match="light ground"):
        plan_of(tmp_path / "cells.ome.tif", stain_norm="macenko")

    code = "class Native:\n    native = True\n    def predict(self, tiles):\n        return [[] for _ in tiles]\n"
    (tmp_path / "native.py").write_text(code)
    with pytest.raises(ConfigError, match="own bands and values"):
        plan_of(field, model=f"{tmp_path / 'native.py'}:Native", stain_norm="macenko")
    with pytest.raises(ConfigError, match="none and macenko"):
        Reading(stain_norm="vahadane")


def test_intensities_are_measured_on_the_slide_as_it_is(tmp_path: Path):
    write_svs(tmp_path / "slide.svs", composed(amounts((500, 600)), OTHER), mpp=0.5, factors=())
    image = image_io.open_source(str(tmp_path / "slide.svs"), Reading(), native=True)
    with image:
        pixels = image.read(image.frame.window).data
    options = {"model": "threshold", "device": "cpu", "workers": 1, "tissue": "none", "preview": False}
    count_cells([str(tmp_path / "slide.svs")], tmp_path / "out", stain_norm="macenko", format=("cells", "cog"), **options)

    cells = pd.read_parquet(tmp_path / "out" / "slide_cells.parquet")

    labels = tifffile.imread(next((tmp_path / "out").glob("slide*.tif")))
    means = [pixels[labels == i].mean(axis=0) for i in cells["id"]]
    assert len(cells) > 20
    assert np.allclose(cells[["mean_red", "mean_green", "mean_blue"]], means, atol=0.01)


@needs_svs
def test_a_real_slide_is_fitted():
    plan = plan_of(SVS, stain_norm="macenko")

    own = plan.shown.stains.own
    assert own is not None
    assert own.vectors[0][0] > 0.6 > 0.3 > own.vectors[1][0]
