"""Our Mask R-CNN finds what torchvision's finds, says when a limit bound, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support_models import as_tile, make_maskrcnn_weights, scene
from torchvision.models.detection.image_list import ImageList

from seggeo.errors import ConfigError, ModelError, ResourceError
from seggeo.models import maskrcnn
from seggeo.models.maskrcnn import load
from seggeo.models.maskrcnn_pixels import prepare
from seggeo.models.maskrcnn_settings import complete, read_settings
from seggeo.models.weights import sha256_of
from seggeo.protocols import ModelRequest


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_maskrcnn_weights(tmp_path_factory.mktemp("weights") / "toy.safetensors")


def segmenter(path, **settings):
    return load(ModelRequest(name="maskrcnn", weights=path, settings=settings, device="cpu"))


def plain(path):
    """The file's network as torchvision makes it."""
    file = maskrcnn.read_file(path)
    chosen = read_settings(file.facts, {})
    settings = complete(chosen, bands=file.architecture.bands, classes=file.architecture.classes)
    return maskrcnn._filled(file.architecture, settings, file.state, path)


def stock(model, image, size):
    """What torchvision's own forward gives for a float image in 0 to 1, its resize set to the identity."""
    model.transform.min_size, model.transform.max_size = (size,), size
    with torch.inference_mode():
        return model([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]


def same_as_stock(found, expected):
    assert len(found) == len(expected["scores"]) > 5
    assert np.allclose(found.score, expected["scores"], atol=1e-5)
    assert np.array_equal(found.label + 1, expected["labels"])
    theirs = (expected["masks"][:, 0] >= 0.5).numpy()
    differ = 0  # pixels whose probability is the threshold up to rounding
    for (row, col, row_stop, col_stop), mask, full in zip(found.box, (m for _, m in found), theirs, strict=True):
        full[row:row_stop, col:col_stop] ^= mask
        differ += full.sum()
    assert differ <= found.area.sum() // 10_000


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_large"])
def test_detections_and_masks_are_torchvisions(tmp_path, arch, size):
    weights = make_maskrcnn_weights(tmp_path / "w.safetensors", arch=arch, seed=1)
    image = scene(size, seed=3)

    found = segmenter(weights).predict([as_tile(image)])[0].instances

    same_as_stock(found, stock(plain(weights), image, size))


@torch.inference_mode()
def test_boxes_are_torchvisions_up_to_rounding(weights):
    ours, image = segmenter(weights), scene(128)
    images = ImageList(prepare([as_tile(image)], ours._settings, torch.device("cpu"), native=False), [(128, 128)])
    features = ours._features(images)

    found = ours._detections(images, features, ours._proposals(images, features)[0])

    expected = stock(plain(weights), image, 128)
    assert torch.allclose(found.boxes, expected["boxes"], atol=1e-3)
    assert torch.allclose(found.scores, expected["scores"], atol=1e-5)
    assert torch.equal(found.labels, expected["labels"])


def test_a_tile_that_is_no_multiple_of_the_stride_keeps_its_size(weights):
    ours = segmenter(weights)

    found = ours.predict([as_tile(scene(150)[:101])])[0].instances

    assert len(found) > 5
    assert found.box.min() >= 0
    assert (found.box[:, 2:] <= (101, 150)).all()


def test_an_answer_does_not_depend_on_the_tiles_before_or_beside_it(weights):
    tiles = [as_tile(scene(size, seed=size)) for size in (40, 128, 96, 128)]
    together = segmenter(weights).predict(tiles)

    for tile, prediction in zip(tiles, together, strict=True):
        alone = segmenter(weights).predict([tile])[0]
        assert np.array_equal(alone.instances.runs, prediction.instances.runs)
        assert np.array_equal(alone.instances.box, prediction.instances.box)
        assert np.array_equal(alone.instances.score, prediction.instances.score)


def test_a_batch_gives_the_answers_of_single_tiles_to_rounding(weights):
    tiles = [as_tile(scene(128, seed=seed)) for seed in range(3)]
    single = segmenter(weights).predict(tiles)
    batched = load(ModelRequest(name="maskrcnn", weights=weights, device="cpu", batch=3)).predict(tiles)

    for a, b in zip(single, batched, strict=True):
        assert len(a.instances) == len(b.instances)
        assert np.allclose(a.instances.score, b.instances.score, atol=1e-5)


def test_no_tiles_give_no_predictions_and_no_detections_give_empty_instances(weights):
    assert segmenter(weights).predict([]) == []
    nothing = segmenter(weights, score=1.0).predict([as_tile(scene(128))])[0]
    assert len(nothing.instances) == 0
    assert not nothing.capped


def test_masks_smaller_than_min_area_are_left_out(weights):
    everything = segmenter(weights).predict([as_tile(scene())])[0].instances
    limit = int(np.median(everything.area))

    kept = segmenter(weights, min_area=limit).predict([as_tile(scene())])[0].instances

    large = everything.take(everything.area >= limit)
    assert 0 < len(kept) < len(everything)
    assert np.array_equal(kept.runs, large.runs)
    assert np.array_equal(kept.score, large.score)


@pytest.mark.parametrize(
    ("limit", "lift"), [({"detections": 3}, 0.0), ({"rpn_post": 20}, 3.0), ({"rpn_pre": 50}, 3.0)], ids=str
)
def test_a_limit_that_bound_is_reported(weights, limit, lift):
    ours = segmenter(weights, **{"rpn_pre": 2000, "rpn_post": 2000, **limit})
    free = segmenter(weights, rpn_pre=200_000, rpn_post=200_000)
    for model in (ours._model, free._model):  # so that the network holds more places for objects
        model.rpn.head.cls_logits.bias += lift

    capped = ours.predict([as_tile(scene(128))])[0]
    uncapped = free.predict([as_tile(scene(128))])[0]

    assert capped.capped
    assert not uncapped.capped
    assert len(capped.instances) <= len(uncapped.instances)


def test_the_info_says_everything_that_changes_predictions(weights):
    info = segmenter(weights, score=0.6).info

    assert info.weights_sha256 == sha256_of(weights)
    assert (info.name, info.classes, info.exclusive, info.native, info.channels) == (
        "maskrcnn",
        ("class_1", "class_2"),
        False,
        False,
        3,
    )
    assert (info.tile, info.overlap) == (256, 64)
    assert info.settings["score"] == 0.6
    assert info.settings["anchors"] == [8, 16, 32, 64, 128]
    assert info.settings["architecture"] == "maskrcnn_resnet18_fpn"
    assert json.loads(json.dumps(info.settings)) == info.settings
    assert info.memory_bytes > 256 * 256 * 3 * 4


def test_other_band_counts_get_native_pixels(tmp_path):
    ours = segmenter(make_maskrcnn_weights(tmp_path / "w.safetensors", bands=4))
    image = scene(128, bands=4)
    sixteen = image.astype(np.uint16) * 257

    assert (ours.info.native, ours.info.channels) == (True, 4)
    eight = ours.predict([as_tile(image)])[0].instances
    assert len(eight) > 5
    assert np.array_equal(eight.runs, ours.predict([as_tile(sixteen)])[0].instances.runs)
    assert np.array_equal(eight.runs, ours.predict([as_tile((image / 255).astype(np.float32))])[0].instances.runs)


def test_what_lies_outside_the_data_does_not_reach_the_network(tmp_path):
    ours = segmenter(make_maskrcnn_weights(tmp_path / "w.safetensors", bands=2))
    image = (scene(128, bands=2) / 255).astype(np.float32)
    valid = np.ones((128, 128), bool)
    valid[:, 90:] = False
    answers = []
    for filler in (np.nan, -9999.0, np.inf):
        image[:, 90:] = filler
        answers.append(ours.predict([dataclasses.replace(as_tile(image), valid=valid)])[0].instances)

    assert len(answers[0]) > 5
    assert np.array_equal(answers[0].runs, answers[1].runs)
    assert np.array_equal(answers[0].runs, answers[2].runs)


def test_tiles_of_other_bands_are_refused(weights):
    with pytest.raises(ConfigError, match="the tile has 4 bands, the model takes 3"):
        segmenter(weights).predict([as_tile(scene(64, bands=4))])


@pytest.mark.parametrize(
    "part",
    [
        "backbone.body.conv1.bias",
        "rpn.head.cls_logits.bias",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
    ],
)
def test_nan_in_the_network_is_an_error_and_not_an_empty_tile(weights, part):
    ours = segmenter(weights)
    ours._model.get_parameter(part)[:] = float("nan")

    with pytest.raises(ModelError, match="NaN or infinite"):
        ours.predict([as_tile(scene(64))])


def test_without_weights_it_says_where_to_get_some():
    with pytest.raises(ModelError, match="needs weights") as caught:
        load(ModelRequest(name="maskrcnn"))

    assert "--weights" in caught.value.mend
    assert "seggeo models pull" in caught.value.mend


def test_an_unknown_setting_is_refused(weights):
    with pytest.raises(ConfigError, match="no setting called 'points'"):
        segmenter(weights, points=32)


def test_a_missing_tensor_is_listed_and_nothing_is_loaded_in_part(weights, tmp_path):
    tensors = load_file(weights)
    tensors.pop("backbone.body.layer1.0.conv2.weight")
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "part.safetensors", metadata=_metadata(weights))

    with pytest.raises(ModelError, match="do not fill") as caught:
        segmenter(tmp_path / "part.safetensors")

    assert "1 missing: backbone.body.layer1.0.conv2.weight" in caught.value.why
    assert "1 left over: extra.weight" in caught.value.why


def test_a_shape_that_differs_is_named(weights, tmp_path):
    tensors = load_file(weights)
    tensors["backbone.body.layer1.0.conv2.weight"] = torch.zeros(64, 64, 1, 1)
    save_file(tensors, tmp_path / "shape.safetensors", metadata=_metadata(weights))

    with pytest.raises(ModelError, match="size mismatch for backbone.body.layer1.0.conv2.weight"):
        segmenter(tmp_path / "shape.safetensors")


def _metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_pth_in_a_training_wrapper_predicts_the_same(weights, tmp_path):
    import argparse

    tensors = {f"module.{name}": value for name, value in load_file(weights).items()}
    torch.save({"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "train.pth")
    settings = json.loads(_metadata(weights)["seggeo"])

    wrapped = segmenter(tmp_path / "train.pth", **settings).predict([as_tile(scene(128))])[0].instances
    plain = segmenter(weights).predict([as_tile(scene(128))])[0].instances

    assert np.array_equal(wrapped.runs, plain.runs)
    assert np.array_equal(wrapped.score, plain.score)


def test_a_frozen_state_dict_without_batch_counts_predicts_the_same(weights, tmp_path):
    tensors = {name: value for name, value in load_file(weights).items() if not name.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "frozen.safetensors", metadata=_metadata(weights))

    frozen = segmenter(tmp_path / "frozen.safetensors").predict([as_tile(scene(128))])[0].instances
    plain = segmenter(weights).predict([as_tile(scene(128))])[0].instances

    assert len(frozen) == len(plain)
    assert np.allclose(frozen.score, plain.score, atol=1e-4)


def test_out_of_memory_halves_the_batch_down_to_one(weights, monkeypatch):
    ours = load(ModelRequest(name="maskrcnn", weights=weights, device="cpu", batch=4))
    tiles = [as_tile(scene(64, seed=seed)) for seed in range(5)]
    whole, sizes = ours._predict, []

    def scarce(some):
        sizes.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(some)

    monkeypatch.setattr(ours, "_predict", scarce)

    assert len(ours.predict(tiles)) == 5
    assert sizes == [4, 2, 1, 1, 1, 1, 1]


def test_out_of_memory_with_one_tile_is_an_error_with_advice(weights, monkeypatch):
    ours = segmenter(weights)

    def none_at_all(some):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ours, "_predict", none_at_all)
    with pytest.raises(ResourceError, match="batch of 1") as caught:
        ours.predict([as_tile(scene(64))])
    assert "--tile" in caught.value.mend


def test_autocast_is_opt_in_and_recorded(weights):
    half = load(ModelRequest(name="maskrcnn", weights=weights, device="cpu", autocast=True))

    found = half.predict([as_tile(scene(128))])[0].instances

    assert half.info.settings["autocast"] is True
    assert segmenter(weights).info.settings["autocast"] is False
    assert len(found) > 5


def test_torchvisions_first_coco_weights_get_their_epsilon():
    coco = next(model for model in maskrcnn.known_models() if model.name == "maskrcnn_resnet50_fpn")

    assert maskrcnn._published(coco.sha256) == {"bn_eps": 0.0}
    assert maskrcnn._published("0" * 64) == {}


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_full_size_networks_agree_with_torchvision(tmp_path, version):
    from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

    torch.manual_seed(version)
    make = maskrcnn_resnet50_fpn if version == 1 else maskrcnn_resnet50_fpn_v2
    model = make(weights=None, weights_backbone=None, num_classes=3, box_detections_per_img=50, box_score_thresh=0.2).eval()
    torch.save(model.state_dict(), tmp_path / "full.pth")
    image = scene(256)
    ours = segmenter(tmp_path / "full.pth", detections=50, score=0.2, rpn_pre=1000, rpn_post=1000)

    found = ours.predict([as_tile(image)])[0].instances

    expected = stock(model, image, 256)
    kept = (expected["masks"][:, 0] >= 0.5).flatten(1).any(1)
    assert int(kept.sum()) == len(found) > 0
    assert np.allclose(found.score, expected["scores"][kept], atol=1e-5)
