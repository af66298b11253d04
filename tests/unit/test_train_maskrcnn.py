"""Training Mask R-CNN: its loss is torchvision's, it begins with weights of any kind, and what it writes comes back."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support_detector import discs, light, sample, scene_of
from support_models import as_tile, make_maskrcnn_weights
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.io import fit_stretch
from seggeo.models.architecture import architecture_of
from seggeo.models.band_limits import limits_of
from seggeo.models.maskrcnn import calibrate, load, read_file
from seggeo.models.maskrcnn_arch import LIGHT, Architecture, build_model, infer_architecture
from seggeo.models.maskrcnn_lean import make_lean
from seggeo.models.maskrcnn_pixels import prepare
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.protocols import ModelRequest, Pixels
from seggeo.train.maskrcnn_loss import detector_loss, mask_targets
from seggeo.train.maskrcnn_start import Start, other_bands
from seggeo.train.maskrcnn_targets import detector_target
from seggeo.train.maskrcnn_task import MaskRCNNTask, maskrcnn_task
from seggeo.train.recipe import Recipe


def toy_task(bands=3, classes=("object",), weights=None, **more):
    recipe = Recipe(model="maskrcnn", minutes=0, steps=10, crop=128, batch=2, **more)
    return maskrcnn_task(recipe, [scene_of(discs(), bands, classes)], weights)


def small_task():
    """An even lighter network with the settings of a real task."""
    torch.manual_seed(0)
    architecture, settings = light(), toy_task().settings
    network = build_model(architecture, settings, {"rpn_post_nms_top_n_train": 100, "box_batch_size_per_image": 64})
    return MaskRCNNTask(Start(network=network, architecture=architecture, settings=settings, rate=1e-3))


# Loss


def test_mask_targets_equal_torchvisions():
    labels = discs(count=60, radius=(3, 7), seed=1)
    target = detector_target(labels, np.zeros(labels.max(), np.int32), np.ones(labels.shape, bool))
    torch.manual_seed(0)
    matched = torch.randint(len(target.ids), (70,))
    regions = target.boxes[matched] + 3 * torch.randn(70, 4)
    masks = (target.objects == target.ids[:, None, None]).to(torch.uint8)

    assert len(target.ids) > 16  # more than one round
    ours = mask_targets(target.objects, target.ids[matched], regions, 28)
    torch.testing.assert_close(ours, project_masks_on_boxes(masks, regions, matched, 28), rtol=0, atol=0)


@pytest.fixture(scope="module")
def small_network():
    torch.manual_seed(0)
    settings = DetectorSettings(mean=(0.5,) * 3, std=(0.25,) * 3, anchors=((10, 14), (20, 28), (40, 56), (80, 112), (160, 224)))
    return build_model(light(), settings, {"box_batch_size_per_image": 64}).train()


def batch_of(*labels, valid=None):
    targets = [
        detector_target(each, np.zeros(each.max(), np.int32), np.ones(each.shape, bool) if valid is None else valid)
        for each in labels
    ]
    images = torch.from_numpy(np.stack([sample(each).image for each in labels]))
    return (images - 0.5) / 0.25, targets


def test_the_loss_is_torchvisions_where_nothing_is_ignored(small_network):
    images, targets = batch_of(discs(seed=1), np.zeros((128, 128), np.int32))
    dicts = [
        {"boxes": t.boxes, "labels": t.labels, "masks": (t.objects == t.ids[:, None, None]).to(torch.uint8)} for t in targets
    ]
    torch.manual_seed(1)
    ours = detector_loss(small_network, images, targets)
    torch.manual_seed(1)
    features = small_network.backbone(images)
    shapes = [(128, 128)] * 2
    proposals, first = small_network.rpn(ImageList(images, shapes), features, dicts)
    _, second = small_network.roi_heads(features, proposals, shapes, dicts)

    theirs = [*first.values(), second["loss_classifier"], second["loss_box_reg"], second["loss_mask"]]
    assert list(ours) == ["objectness", "proposals", "classes", "boxes", "masks"]
    torch.testing.assert_close(list(ours.values()), theirs, rtol=1e-5, atol=1e-6)


def test_what_lies_where_nothing_is_known_costs_nothing(small_network):
    images, targets = batch_of(np.zeros((128, 128), np.int32), valid=np.zeros((128, 128), bool))
    losses = detector_loss(small_network, images, targets)
    sum(losses.values()).backward()

    assert {name: float(value.detach()) for name, value in losses.items()} == dict.fromkeys(losses, 0.0)
    gradients = [p.grad for p in small_network.parameters() if p.grad is not None]
    assert gradients
    assert not any(g.any() for g in gradients)


def test_the_loss_of_two_images_falls():
    task = small_task()
    batch = task.collate([sample(discs(seed=1), seed=1), sample(discs(seed=2), seed=2)])
    optimiser = torch.optim.AdamW(task.network.parameters(), lr=3e-3)
    torch.manual_seed(0)
    task.network.train()
    values = []
    for _ in range(24):
        total = torch.stack(list(task.loss(batch).values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(float(total.detach()))

    assert np.mean(values[-4:]) < 0.6 * np.mean(values[:2])


def test_the_loss_draws_the_same_boxes_whatever_was_drawn_before():
    task = small_task()
    batch = task.collate([sample(discs(seed=5, count=20))])
    task.network.train()
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values.append([float(v.detach()) for v in task.loss(batch).values()])
        following = torch.rand(1)
        torch.manual_seed(seed)
        assert following == torch.rand(1)  # and leaves the generator as it was

    assert values[0] == values[1]


# Weights


def test_saved_weights_predict_as_the_network_did(tmp_path):
    task = toy_task(seed=4, set={"score": 0.01, "detections": 40})
    network = task.network
    with torch.no_grad():  # what half precision keeps exactly, so that the file is the network
        for value in network.parameters():
            if value.ndim > 1:
                value.copy_(value.half().float())
        network.roi_heads.box_predictor.cls_score.bias[1] += 1
    path = tmp_path / "model.safetensors"
    task.write(network, path, {**task.card(), "stretch": "auto", "licence": "CC0"})
    image = (255 * sample(discs()).image).astype(np.uint8).transpose(1, 2, 0)
    lean = make_lean(copy.deepcopy(network).eval())  # as every network that is loaded
    before = task.segmenter(lean).predict([as_tile(image)])[0].instances
    loaded = load(ModelRequest(name="maskrcnn", weights=path, device="cpu"))
    after = loaded.predict([as_tile(image)])[0].instances

    assert len(before) > 5
    np.testing.assert_array_equal(before.box, after.box)
    np.testing.assert_array_equal(before.score, after.score)
    assert all(np.array_equal(before.mask(i), after.mask(i)) for i in range(len(before)))
    assert {p.dtype for p in loaded._model.parameters()} == {torch.float32}


def test_the_file_is_small_says_what_it_is_and_its_architecture_is_found_again(tmp_path):
    task = toy_task(classes=("roof", "pool"))
    path = tmp_path / "model.safetensors"
    task.write(task.network, path, {**task.card(), "licence": "CC0"})
    facts = read_file(path).facts

    assert path.stat().st_size <= 12e6
    assert infer_architecture(load_file(path), path) == Architecture(classes=3, **LIGHT)
    assert architecture_of(path) == facts["model"] == "maskrcnn"
    assert facts["classes"] == ["roof", "pool"]
    assert json.loads(json.dumps(facts["anchors"])) == [list(level) for level in task.settings.anchors]


def test_variances_beyond_half_precision_survive(tmp_path):
    task = toy_task()
    task.network.backbone.body.bn1.running_var.fill_(1e6)
    path = tmp_path / "model.safetensors"
    task.write(task.network, path, task.card())

    assert float(load_file(path)["backbone.body.bn1.running_var"][0]) == 1e6


@pytest.fixture(scope="module")
def older_weights(tmp_path_factory):
    return make_maskrcnn_weights(tmp_path_factory.mktemp("weights") / "old.safetensors", classes=4)


def test_weights_of_other_classes_keep_all_but_the_heads(older_weights, caplog):
    with caplog.at_level(logging.WARNING):
        task = toy_task(weights=older_weights)
    old, new = load_file(older_weights), task.network.state_dict()

    changed = {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    assert changed == {
        f"roi_heads.{part}.{kind}"
        for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
        for kind in ("weight", "bias")
    }
    assert new["roi_heads.box_predictor.cls_score.weight"].shape[0] == 2
    assert "heads start anew" in caplog.text
    assert task.settings.mean == (0.5,) * 3
    assert task.rate < toy_task().rate


def test_weights_of_other_bands_are_repeated(older_weights, caplog):
    with caplog.at_level(logging.WARNING):
        task = toy_task(bands=5, weights=older_weights, classes=("a", "b", "c", "d"))
    old = load_file(older_weights)["backbone.body.conv1.weight"]
    new = task.network.state_dict()["backbone.body.conv1.weight"]

    assert "3 bands is repeated for 5" in caplog.text
    torch.testing.assert_close(new[:, 3] * 5 / 3, old[:, 0])
    grey = torch.rand(1, 1, 9, 9)
    for bands in (1, 2, 6):
        ours = torch.nn.functional.conv2d(grey.repeat(1, bands, 1, 1), other_bands(torch.ones(1, 3, 3, 3), bands))
        torch.testing.assert_close(ours, torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), torch.ones(1, 3, 3, 3)))


def test_other_bands_come_with_limits_where_images_are_learnt_from_as_they_are():
    task = toy_task(bands=2)
    stretched = maskrcnn_task(
        Recipe(model="maskrcnn", steps=1), [scene_of(discs(), 2, kind="linear")], None
    )  # fmt: skip

    assert (task.settings.low, task.settings.high) == ((0.0, 0.0), (255.0, 255.0))
    assert stretched.settings.low == ()
    assert task.segmenter(task.network).info.native


def test_settings_that_do_not_exist_are_refused(older_weights):
    with pytest.raises(ConfigError, match="no backbone called 'resnet9'"):
        toy_task(set={"backbone": "resnet9"})
    with pytest.raises(ConfigError, match="no setting called 'width'"):
        toy_task(set={"width": 3})
    with pytest.raises(ConfigError, match="weights bring their architecture along"):
        toy_task(weights=older_weights, set={"backbone": "small"})


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
def test_every_backbone_that_can_be_named_is_read_back(backbone, tmp_path):
    task = toy_task(set={"backbone": backbone})

    found = infer_architecture(task.network.state_dict(), tmp_path)
    assert (found.backbone, found.classes, found.pyramid_norm) == (backbone, 2, True)


@pytest.mark.parametrize(
    "changes",
    [{}, {"bands": 5, "blocks": (1, 2, 3, 1)}, {"widths": (12, 24, 32, 40, 48), "anchors": 3, "frozen": True}],
    ids=str,
)
def test_the_widths_of_small_backbones_are_found_again(changes, tmp_path):
    architecture = light(**changes)
    bands = architecture.bands
    anchors = [[8 << i] * (architecture.anchors // 3) for i in range(5)]
    settings = DetectorSettings(mean=(0.5,) * bands, std=(0.2,) * bands, anchors=tuple(tuple(map(float, a)) for a in anchors))
    with torch.device("meta"):
        state = build_model(architecture, settings).state_dict()

    assert infer_architecture(state, tmp_path) == architecture


# Other bands


@pytest.mark.parametrize("stretch", ["auto", "minmax", "percent:1,99.8", "10,5000"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_limits_of_bands_are_those_of_the_stretch(stretch, dtype):
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 30, (40, 50, 4)).astype(dtype)
    valid = rng.random((40, 50)) > 0.2
    fitted = fit_stretch(Pixels(data=image, valid=valid), stretch)

    assert limits_of(replace(as_tile(image), valid=valid), stretch) == (fitted.low, fitted.high)


def test_a_model_of_other_bands_sees_them_stretched_as_in_its_training(tmp_path):
    """Two bands of 16 bits with the limits of the image, and their 8 bits with those of the training, are seen alike."""
    task = maskrcnn_task(Recipe(model="maskrcnn", steps=1), [scene_of(discs(), 2, kind="linear")], None)
    path = tmp_path / "model.safetensors"
    task.write(task.network, path, {**task.card(), "stretch": "minmax"})
    eight = (255 * sample(discs(), bands=2).image).astype(np.uint8).transpose(1, 2, 0)
    eight[0, :2] = [[0, 0], [255, 255]]
    sixteen = eight.astype(np.uint16) * 200 + 1000
    request = ModelRequest(name="maskrcnn", weights=path, device="cpu")
    found = calibrate(request, OneLook(sixteen))
    loaded = load(replace(request, settings=found))

    assert found == {"low": [1000.0, 1000.0], "high": [52000.0, 52000.0]}
    here = {"device": torch.device("cpu"), "native": True}
    ours = prepare([as_tile(sixteen)], loaded._settings, **here)
    theirs = prepare([as_tile(eight)], task.segmenter(task.network)._settings, **here)
    torch.testing.assert_close(ours, theirs)
    batch = task.collate([replace(sample(discs(), bands=2), image=eight.transpose(2, 0, 1).astype(np.float32) / 255)])
    torch.testing.assert_close(theirs, batch.image)
    assert calibrate(replace(request, settings=found), OneLook(sixteen)) == {}


class OneLook:
    """A look at an image small enough to be its own overview."""

    def __init__(self, image):
        self.overview = as_tile(image)
        self.frame = Frame(height=image.shape[0], width=image.shape[1])
        self.bands = tuple(f"band {i + 1}" for i in range(image.shape[2]))

    def windows(self, side, count):
        return [self.overview]
