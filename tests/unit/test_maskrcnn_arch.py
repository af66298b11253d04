"""The network is inferred from tensors alone, for every torchvision Mask R-CNN we claim to load."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from seggeo.errors import ModelError
from seggeo.models.maskrcnn_arch import V2, Architecture, build_model, infer_architecture
from seggeo.models.maskrcnn_settings import DetectorSettings, complete

PATH = Path("weights.pth")


def of_resnet(name: str, classes: int) -> MaskRCNN:
    return MaskRCNN(resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=torch.nn.BatchNorm2d), classes)


def of_mobilenet(classes: int) -> MaskRCNN:
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True)
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return MaskRCNN(backbone, classes, rpn_anchor_generator=anchors)


STOCK = {
    "resnet50": (lambda: maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), Architecture()),
    "resnet50_v2": (
        lambda: maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4),
        Architecture(classes=4, **V2),
    ),
    "resnet18": (lambda: of_resnet("resnet18", 2), Architecture(backbone="resnet18", classes=2)),
    "resnet34": (lambda: of_resnet("resnet34", 7), Architecture(backbone="resnet34", classes=7)),
    "resnet101": (lambda: of_resnet("resnet101", 2), Architecture(backbone="resnet101", classes=2)),
    "mobilenet": (lambda: of_mobilenet(3), Architecture(backbone="mobilenet_v3_large", classes=3, anchors=15, frozen=True)),
}


@pytest.mark.parametrize("name", STOCK)
def test_torchvisions_own_models_are_recognised_and_rebuilt(name):
    make, expected = STOCK[name]
    with torch.device("meta"):
        state = make().state_dict()
        found = infer_architecture(state, PATH)
        ours = build_model(found, complete(DetectorSettings(), bands=3, classes=found.classes)).state_dict()

    assert found == expected
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"bands": 1},
        {"bands": 8},
        {"classes": 12},
        {"frozen": True},
        {"pyramid": 64, "mask_convs": (64, 32), "mask_hidden": 16},
        {"box_features": 128},
        V2,
        {"backbone": "mobilenet_v3_large", "anchors": 15, "bands": 5},
    ],
    ids=str,
)
def test_what_is_built_is_inferred_again(change):
    architecture = dataclasses.replace(Architecture(backbone="resnet18", classes=3), **change)
    settings = DetectorSettings(mean=(0.5,) * architecture.bands, std=(0.2,) * architecture.bands)
    with torch.device("meta"):
        state = build_model(architecture, settings).state_dict()

    assert infer_architecture(state, PATH) == architecture


def test_layer_names_from_before_2022_are_read():
    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2).state_dict()
    old = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for name, value in state.items()}
    for i in range(4):
        old = {name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}."): value for name, value in old.items()}
        for part in ("inner", "layer"):
            old = {name.replace(f"{part}_blocks.{i}.0.", f"{part}_blocks.{i}."): value for name, value in old.items()}

    assert "rpn.head.conv.weight" in old
    assert infer_architecture(old, PATH) == Architecture(classes=2)


def test_frozen_batch_norm_takes_the_epsilon_that_is_set():
    settings = DetectorSettings(bn_eps=0.0, mean=(0.5,) * 3, std=(0.2,) * 3)
    with torch.device("meta"):
        model = build_model(Architecture(backbone="resnet18", classes=2, frozen=True), settings)

    layers = [layer for layer in model.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert layers
    assert {layer.eps for layer in layers} == {0.0}


def refused(state) -> str:
    with pytest.raises(ModelError) as caught:
        infer_architecture(state, PATH)
    assert "weights.pth" in caught.value.what
    return f"{caught.value}"


def test_what_is_no_mask_rcnn_is_refused_with_the_reason():
    with torch.device("meta"):
        whole = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).state_dict()
        deep = of_resnet("resnet152", 2).state_dict()
        wide = of_resnet("wide_resnet50_2", 2).state_dict()
    heads = {**whole, "roi_heads.mask_predictor.mask_fcn_logits.weight": torch.empty(3, 256, 1, 1, device="meta")}
    without = {name: value for name, value in whole.items() if not name.startswith("rpn")}
    image_encoder = {"image_encoder.pos_embed": torch.empty(1, device="meta")}

    assert "holds no torchvision Mask R-CNN" in refused(image_encoder)
    assert "5 in the classifier, 3 in the masks, 5 in the boxes" in refused(heads)
    assert "rpn.head.cls_logits.weight" in refused(without)
    assert "(3, 8, 36, 3)" in refused(deep)
    assert "resnet50" in refused(wide)
