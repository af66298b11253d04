"""Star distances in training: they are learnt, kept in weights, used by `segment`, and refused where they mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support_scenes import panoptic_quality
from support_threads import one_thread
from support_train import FAST, data_folder, discs, lit, one_scene
from support_unet import save_network, toy_network, whole_tile

from seggeo.errors import ConfigError, ModelError
from seggeo.geometry import Window
from seggeo.models.unet import load
from seggeo.models.unet_arch import UNetShape, without_rays
from seggeo.protocols import ModelRequest, TileImage
from seggeo.train.examples import find_examples
from seggeo.train.fit import Progress
from seggeo.train.recipe import Recipe
from seggeo.train.session import Running, train
from seggeo.train.unet_task import unet_task


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def network():
    """Random weights with eight rays."""
    return toy_network(rays=8)


STARS = {**FAST, "steps": 40, "epoch": 40, "crop": 64, "rate": 0.02, "set": {"widths": "8,8,16", "rays": 8}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of a short training, and the error of its rays in every batch."""
    folder = tmp_path_factory.mktemp("stars")
    examples = find_examples([data_folder(folder / "data")])
    events = list(train(examples, Recipe(**STARS), folder / "out", running=Running(device="cpu")))
    means = np.array([e.losses["rays"] for e in events if isinstance(e, Progress)])  # each is of all batches so far
    return folder / "out" / "model.safetensors", np.diff(means * np.arange(1, len(means) + 1), prepend=0)


def test_training_lowers_the_error_of_rays(trained):
    assert trained[1][-5:].mean() < 0.5 * trained[1][:3].mean()


def test_trained_weights_segment_by_stars(trained):
    labels = discs(9)
    image = np.moveaxis(lit(labels), 0, 2)
    model = load(ModelRequest(name="unet", weights=trained[0], settings={"scale": "1", "group": "stars"}))
    found = model.predict([whole_tile(image)])[0].instances
    painted = np.zeros(labels.shape, np.int32)
    for i in range(len(found)):
        row, col, row_stop, col_stop = found.box[i]
        painted[row:row_stop, col:col_stop][found.mask(i)] = i + 1

    assert panoptic_quality(labels, painted).pq > 0.7


def test_a_tile_finds_the_stars_of_the_whole_image(trained):
    model = load(ModelRequest(name="unet", weights=trained[0], settings={"scale": "1", "group": "stars"}))
    labels = discs(3, (420, 460), 300)
    image = np.moveaxis(lit(labels), 0, 2)
    window = Window(row=104, col=152, height=200, width=200)
    extent = model.info.extent(window, within=Window(row=0, col=0, height=420, width=460))
    tile = replace(whole_tile(image[window.slices()]).tile, core=window, window=window)
    asked = TileImage(image=image[extent.slices()], valid=np.ones(extent.shape, bool), tile=tile, extent=extent)
    part = model.predict([asked])[0].instances.shift(window.row, window.col, 0)
    whole = model.predict([whole_tile(image)])[0].instances
    inner = [
        (tuple(int(v) for v in box), whole.mask(i).tobytes())
        for i, box in enumerate(whole.box) if (box[:2] > (104, 152)).all() and (box[2:] < (304, 352)).all()
    ]  # fmt: skip
    found = {(tuple(int(v) for v in box), part.mask(i).tobytes()) for i, box in enumerate(part.box)}

    assert len(inner) > 25
    assert set(inner) <= found


def test_votes_of_weights_with_rays_are_those_of_weights_without(tmp_path, network):
    plain = without_rays(network)
    image = whole_tile(np.random.default_rng(3).integers(0, 256, (170, 190, 3)).astype(np.uint8))
    settings = {"scale": "1", "min_score": 0.0, "foreground": 0.3}
    found = [
        load(ModelRequest(name="unet", weights=save_network(model, tmp_path / f"{name}.safetensors"), settings=settings))
        .predict([image])[0].instances for name, model in (("with", network), ("without", plain))
    ]  # fmt: skip

    assert len(found[0]) > 3
    assert np.array_equal(found[0].runs, found[1].runs)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return [one_scene(tmp_path_factory.mktemp("scene"), discs(0))]


def test_weights_without_rays_take_them_on(tmp_path, scenes):
    start = toy_network(widths=(8, 8, 16))
    path = save_network(start, tmp_path / "plain.safetensors")
    recipe = Recipe(**{**FAST, "set": {"rays": 12}})
    task = unet_task(recipe, scenes, path)
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        old, new = start.eval()(image), task.network.eval()(image)

    assert task.shape == UNetShape(widths=(8, 8, 16), rays=12)
    assert task.card()["shape"]["rays"] == 12
    torch.testing.assert_close(new[:, :5], old, atol=1e-5, rtol=1e-5)
    assert new[:, 5:].std() > 0


def test_weights_with_rays_keep_them_and_take_no_others(tmp_path, scenes):
    path = save_network(toy_network(widths=(8, 8), rays=8), tmp_path / "stars.safetensors")
    wider = unet_task(Recipe(**{**FAST, "set": {"widths": "8,16"}}), scenes, path)

    assert wider.shape == UNetShape(widths=(8, 16), rays=8)
    for rays in (0, 16):
        with pytest.raises(ConfigError, match=f"8 star distances, and rays={rays}"):
            unet_task(Recipe(**{**FAST, "set": {"rays": rays}}), scenes, path)


@pytest.mark.parametrize("rays", [4, 10, 132, -8, "many", 8.5])
def test_rays_that_a_network_cannot_have_are_refused(scenes, rays):
    with pytest.raises(ConfigError, match="rays"):
        unet_task(Recipe(**{**FAST, "set": {"rays": rays}}), scenes, None)


def test_weights_that_name_such_rays_are_refused(tmp_path, network):
    other = toy_network(widths=(8, 8))
    path = save_network(other, tmp_path / "odd.safetensors")
    said = {**UNetShape(widths=(8, 8)).to_json(), "rays": 7}
    with pytest.raises(ConfigError, match="rays=7"):
        UNetShape.from_json(said)
    wrong = save_network(other, path, shape=UNetShape(widths=(8, 8), rays=8))
    with pytest.raises(ModelError):
        load(ModelRequest(name="unet", weights=wrong, settings={"scale": "1"}))


def test_stars_need_weights_with_rays(tmp_path):
    path = save_network(toy_network(), tmp_path / "plain.safetensors")
    with pytest.raises(ConfigError, match="no star distances") as refused:
        load(ModelRequest(name="unet", weights=path, settings={"scale": "1", "group": "stars"}))

    assert "rays=32" in refused.value.mend


@pytest.mark.parametrize(("name", "value"), [("group", "boxes"), ("peak", 1.0), ("peak", -0.1), ("nms", 1.5), ("nms", -1.0)])
def test_settings_that_mean_nothing_are_refused(tmp_path, network, name, value):
    path = save_network(network, tmp_path / "stars.safetensors")
    with pytest.raises(ConfigError, match=name):
        load(ModelRequest(name="unet", weights=path, settings={"scale": "1", name: value}))
