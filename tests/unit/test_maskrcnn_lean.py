"""A lean network has no batch norm of its own, and gives what torchvision's gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.ops.misc import FrozenBatchNorm2d

from seggeo.models.maskrcnn_arch import V2, Architecture, build_model
from seggeo.models.maskrcnn_lean import fold_norms, make_lean
from seggeo.models.maskrcnn_settings import DetectorSettings, complete

NARROW = {"pyramid": 16, "box_features": 16, "mask_convs": (16,), "mask_hidden": 16, "classes": 2}
KINDS = {
    "resnet18": {"backbone": "resnet18"},
    "resnet18_frozen": {"backbone": "resnet18", "frozen": True},
    "resnet18_v2": {"backbone": "resnet18", **V2, "box_convs": (16, 16)},
    "resnet50": {"backbone": "resnet50"},
    "mobilenet": {"backbone": "mobilenet_v3_large", "anchors": 15},
    "small": {"backbone": "small", "widths": (8, 8, 16, 16, 16), "blocks": (1, 1, 1, 1)},
}


def network(kind: str) -> torch.nn.Module:
    """A narrow network whose norms do something."""
    architecture = Architecture(**{**NARROW, **KINDS[kind]})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build_model(architecture, complete(DetectorSettings(), bands=3, classes=2)).eval()
        for layer in norms(model):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_()
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return model.requires_grad_(requires_grad=False)


def norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, (torch.nn.BatchNorm2d, FrozenBatchNorm2d))]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_features_and_heads_are_torchvisions_up_to_rounding(kind):
    plain = network(kind)
    lean = make_lean(copy.deepcopy(plain))
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    regions = torch.randn(3, 16, 14, 14, generator=torch.Generator().manual_seed(2))

    assert norms(plain)
    assert not norms(lean)
    expected, found = plain.backbone(image), lean.backbone(image)
    for name, values in expected.items():
        assert (found[name] - values).abs().max() < 2e-5 * values.abs().max()
    for parts in (lambda m: m.rpn.head(list(expected.values()))[0][0], lambda m: m.roi_heads.mask_head(regions),
                  lambda m: m.roi_heads.box_head(regions[..., :7, :7])):  # fmt: skip
        assert (parts(lean) - parts(plain)).abs().max() < 2e-5 * parts(plain).abs().max()


def test_a_norm_that_follows_no_convolution_stays():
    layers = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 1), torch.nn.ReLU())

    fold_norms(layers)

    assert isinstance(layers[1], torch.nn.BatchNorm2d)
