"""Which Mask R-CNN a state dict holds, read from its tensors, and the torchvision network of that shape.

`infer_architecture` reads names and shapes only; `build_model` makes a real `torchvision` `MaskRCNN` from the record, so
that training and inference share it. What tensors cannot say (anchors, epsilon, normalisation) is in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision.models as backbones
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import FrozenBatchNorm2d

from seggeo.errors import ModelError
from seggeo.models.maskrcnn_body import SMALL, small_body
from seggeo.models.maskrcnn_settings import DetectorSettings, anchor_sizes

# Blocks per stage and whether they are bottlenecks.
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
MOBILENET = "mobilenet_v3_large"
# The pyramid's inputs: the last block before the last stride, and the last layer.
MOBILENET_LEVELS = {"13": 160, "16": 960}
POOLED = 7
"""Side of the grid the box head sees, px."""

_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_CLASSES = "roi_heads.box_predictor.cls_score.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of one Mask R-CNN; the defaults are torchvision's `maskrcnn_resnet50_fpn`."""

    backbone: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101, mobilenet_v3_large or small."""
    widths: tuple[int, ...] = ()
    """Channels of the small backbone's stem and stages; none for the others."""
    blocks: tuple[int, ...] = ()
    """Blocks of the small backbone's stages."""
    classes: int = 91
    """Outputs of the classifier, background included."""
    bands: int = 3
    anchors: int = 3
    """Anchors at each place of each pyramid level."""
    frozen: bool = False
    """Backbone with frozen batch norm: four tensors a layer instead of five."""
    pyramid: int = 256
    """Channels of the feature pyramid."""
    pyramid_norm: bool = False
    rpn_convs: int = 1
    box_convs: tuple[int, ...] = ()
    """Channels of the box head's convolutions, all with batch norm; none in the first version."""
    box_features: int = 1024
    mask_convs: tuple[int, ...] = (256, 256, 256, 256)
    mask_norm: bool = False
    mask_hidden: int = 256

    @property
    def levels(self) -> int:
        """Pyramid levels, the pooled one included."""
        return 3 if self.backbone == MOBILENET else 5

    @property
    def name(self) -> str:
        """As torchvision would call it."""
        return f"maskrcnn_{self.backbone}_fpn" + ("_v2" if self.box_convs and self.mask_norm else "")


LIGHT: dict[str, Any] = {
    "backbone": SMALL, "widths": (24, 48, 96, 160, 256), "blocks": (2, 2, 2, 2), "anchors": 6, "pyramid": 96,
    "pyramid_norm": True, "box_features": 256, "mask_convs": (64, 64, 64), "mask_hidden": 64,
}  # fmt: skip
"""Widths of the detector that is trained where none are named; 5.3 M parameters, 10.6 MB in half precision."""

V2 = {"pyramid_norm": True, "rpn_convs": 2, "box_convs": (256,) * 4, "mask_norm": True}
"""What sets the second version apart: `Architecture(backbone="resnet50", **V2)`."""


def infer_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """The architecture whose tensors `state` holds.

    Raises:
        ModelError: Not a torchvision Mask R-CNN, an unknown backbone, or heads that disagree about the classes.
    """
    lacking = [name for name in (_LOGITS, _CLASSES) if name not in state]
    if lacking:
        raise ModelError(
            what=f"{path} holds no torchvision Mask R-CNN",
            why=f"it has {len(state)} tensors ({', '.join(list(state)[:3])} ...) but no {lacking[0]}",
            mend="use --model sam for SAM weights, or weights saved from torchvision's MaskRCNN",
        )
    try:
        return _read(state, path)
    except KeyError as error:
        raise ModelError(
            what=f"{path} holds an incomplete Mask R-CNN",
            why=f"its tensor {error} is missing",
            mend="save the whole state dict again",
        ) from error


def _read(state: Mapping[str, Tensor], path: Path) -> Architecture:
    backbone = _backbone(state, path)
    stem = "backbone.body.0.0.weight" if backbone == MOBILENET else "backbone.body.conv1.weight"
    first_norm = "backbone.body.0.1" if backbone == MOBILENET else "backbone.body.bn1"
    # Files from before 2022 name these layers without the inner block number.
    inner = "backbone.fpn.inner_blocks.0"
    return Architecture(
        backbone=backbone,
        widths=_small_widths(state) if backbone == SMALL else (),
        blocks=_blocks(state) if backbone == SMALL else (),
        classes=_class_count(state, path),
        bands=state[stem].shape[1],
        anchors=state["rpn.head.cls_logits.weight"].shape[0],
        frozen=f"{first_norm}.num_batches_tracked" not in state,
        pyramid=_either(state, f"{inner}.0.weight", f"{inner}.weight").shape[0],
        pyramid_norm=f"{inner}.1.weight" in state,
        rpn_convs=max(1, len(_channels(state, "rpn.head.conv.{}.0.weight"))),
        box_convs=_channels(state, "roi_heads.box_head.{}.0.weight"),
        box_features=state[_CLASSES].shape[1],
        mask_convs=_channels(state, "roi_heads.mask_head.{}.0.weight")
        or _channels(state, "roi_heads.mask_head.mask_fcn{}.weight", first=1),
        mask_norm="roi_heads.mask_head.0.1.weight" in state,
        mask_hidden=state["roi_heads.mask_predictor.conv5_mask.weight"].shape[1],
    )  # fmt: skip


def _either(state: Mapping[str, Tensor], new: str, old: str) -> Tensor:
    return state[new] if new in state else state[old]


def _channels(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> tuple[int, ...]:
    """Output channels of the layers `pattern` numbers, from `first` up to the first that is absent."""
    found: list[int] = []
    while (name := pattern.format(first + len(found))) in state:
        found.append(state[name].shape[0])
    return tuple(found)


def _class_count(state: Mapping[str, Tensor], path: Path) -> int:
    count, masks = state[_CLASSES].shape[0], state[_LOGITS].shape[0]
    boxes = state["roi_heads.box_predictor.bbox_pred.weight"].shape[0]
    if masks != count or boxes != 4 * count:
        raise ModelError(
            what=f"the heads of {path} disagree about the classes",
            why=f"{count} in the classifier, {masks} in the masks, {boxes / 4:g} in the boxes",
            mend="replace all three predictors when changing the class count, then save again",
        )
    return int(count)


def _backbone(state: Mapping[str, Tensor], path: Path) -> str:
    body = "backbone.body."
    if f"{body}0.0.weight" in state and state.get(f"{body}16.0.weight", state[f"{body}0.0.weight"]).shape[0] == 960:
        return MOBILENET
    blocks = _blocks(state)
    if f"{body}conv2.weight" in state and all(blocks):  # ResNets have one convolution before their stages
        return SMALL
    known = RESNETS.get((blocks, f"{body}layer1.0.conv3.weight" in state))
    if known is None or state[f"{body}layer1.0.conv1.weight"].shape[0] != 64:
        raise ModelError(
            what=f"{path} has a backbone that is not known",
            why=f"its ResNet stages have {blocks} blocks" if any(blocks) else "it is no ResNet and no MobileNetV3-large",
            mend=f"known are {', '.join([*RESNETS.values(), MOBILENET, SMALL])} with a feature pyramid; "
            "another model runs as --model my_model.py:MyModel",
        )
    return known


def _blocks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks in each stage of a ResNet."""
    return tuple(len(_channels(state, f"backbone.body.layer{stage}.{{}}.conv1.weight")) for stage in (1, 2, 3, 4))


def _small_widths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    names = ("conv1", *(f"layer{stage}.0.conv1" for stage in (1, 2, 3, 4)))
    return tuple(state[f"backbone.body.{name}.weight"].shape[0] for name in names)


def build_model(
    architecture: Architecture, settings: DetectorSettings, learning: Mapping[str, int] | None = None
) -> MaskRCNN:  # fmt: skip
    """The torchvision network of that architecture with random weights, limits and thresholds as set.

    Its own resizing is the identity for square images of `settings.tile` px.

    Args:
        architecture: Its shape.
        settings: What tensors cannot say.
        learning: torchvision's own keywords that matter in training only, such as `box_batch_size_per_image`.

    Raises:
        ConfigError: Anchors that do not fit the architecture.
    """
    a = architecture
    sizes = anchor_sizes(settings, anchors=a.anchors, levels=a.levels)
    return MaskRCNN(
        _feature_pyramid(a, settings.bn_eps),
        min_size=settings.tile,
        max_size=settings.tile,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        rpn_anchor_generator=AnchorGenerator(sizes, (settings.aspect_ratios,) * a.levels),
        rpn_head=RPNHead(a.pyramid, a.anchors, a.rpn_convs),
        box_head=_box_head(a),
        box_predictor=FastRCNNPredictor(a.box_features, a.classes),
        mask_head=MaskRCNNHeads(a.pyramid, a.mask_convs, 1, norm_layer=nn.BatchNorm2d if a.mask_norm else None),
        mask_predictor=MaskRCNNPredictor(a.mask_convs[-1], a.mask_hidden, a.classes),
        **_limits(settings),
        **(learning or {}),
    )


def _limits(settings: DetectorSettings) -> dict[str, Any]:
    return {
        "rpn_pre_nms_top_n_test": settings.rpn_pre,
        "rpn_post_nms_top_n_test": settings.rpn_post,
        "rpn_nms_thresh": settings.rpn_nms,
        "box_score_thresh": settings.score,
        "box_nms_thresh": settings.nms,
        "box_detections_per_img": settings.detections,
    }


def _feature_pyramid(a: Architecture, bn_eps: float) -> BackboneWithFPN:
    norm = FrozenBatchNorm2d if a.frozen else nn.BatchNorm2d
    body, levels = _body(a, norm)
    for layer in body.modules():
        if isinstance(layer, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            layer.eps = bn_eps
    returned = {name: str(i) for i, name in enumerate(levels)}
    pyramid_norm = nn.BatchNorm2d if a.pyramid_norm else None
    return BackboneWithFPN(body, returned, list(levels.values()), a.pyramid, norm_layer=pyramid_norm)


def _body(a: Architecture, norm: type[nn.Module]) -> tuple[nn.Module, dict[str, int]]:
    """The backbone and the channels of the layers that the pyramid is built on."""
    if a.backbone == SMALL:
        levels = {f"layer{stage}": width for stage, width in enumerate(a.widths[1:], 1)}
        return small_body(a.bands, a.widths, a.blocks, norm), levels
    return _mobilenet(a, norm) if a.backbone == MOBILENET else _resnet(a, norm)


def _resnet(a: Architecture, norm: type[nn.Module]) -> tuple[nn.Module, dict[str, int]]:
    body = getattr(backbones, a.backbone)(weights=None, norm_layer=norm)
    body.conv1 = _first_layer(body.conv1, a.bands)
    width = body.fc.in_features // 8
    return body, {f"layer{stage}": width * 2 ** (stage - 1) for stage in (1, 2, 3, 4)}


def _mobilenet(a: Architecture, norm: type[nn.Module]) -> tuple[nn.Module, dict[str, int]]:
    body = backbones.mobilenet_v3_large(weights=None, norm_layer=norm).features
    body[0][0] = _first_layer(body[0][0], a.bands)
    return body, MOBILENET_LEVELS


def _first_layer(layer: nn.Conv2d, bands: int) -> nn.Conv2d:
    """The same convolution for another number of bands."""
    if layer.in_channels == bands:
        return layer
    stride, padding = int(layer.stride[0]), int(layer.padding[0])
    return nn.Conv2d(bands, layer.out_channels, int(layer.kernel_size[0]), stride, padding, bias=False)


def _box_head(a: Architecture) -> nn.Module:
    if not a.box_convs:
        head: nn.Module = TwoMLPHead(a.pyramid * POOLED**2, a.box_features)
        return head
    convs = list(a.box_convs)
    conv_head: nn.Module = FastRCNNConvFCHead((a.pyramid, POOLED, POOLED), convs, [a.box_features], norm_layer=nn.BatchNorm2d)
    return conv_head
