"""The loss of a torchvision Mask R-CNN, with places where nothing may be learnt.

torchvision's own parts in its own order, but for two things: anchors and proposals that lie on ignored pixels are never
background, and masks are cut from an image of ids, a few objects at a time. Without ignored pixels the loss is torchvision's
(Ren et al. 2015, He et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import roi_align

from seggeo.train.maskrcnn_targets import Target

IGNORED_SHARE = 0.4
"""A box with more than this share of ignored pixels is not held against the network; a nucleus fills about 0.75 of its box."""
_PLANES = 16
"""Masks that exist as planes of floats at once: 4 MB for crops of 256 px."""


def detector_loss(network: MaskRCNN, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Parts of the loss by name: objectness, proposals, classes, boxes and masks.

    Args:
        network: In training mode.
        images: `(n, bands, h, w)`, normalised; height and width are multiples of 32.
        targets: One for each image.
    """
    sizes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
    features = {level: values.float() for level, values in network.backbone(images).items()}
    shares = [_table(target.ignored) for target in targets]
    proposals, losses = _proposal_loss(network.rpn, ImageList(images, sizes), features, targets, shares)
    return {**losses, **_region_loss(network.roi_heads, features, proposals, sizes, targets, shares)}


def _proposal_loss(
    rpn: RegionProposalNetwork, images: ImageList, features: dict[str, Tensor], targets: Sequence[Target],
    tables: Sequence[Tensor],
) -> tuple[list[Tensor], dict[str, Tensor]]:  # fmt: skip
    """Proposals of each image, and what the first stage has to learn."""
    levels = list(features.values())
    raw, raw_deltas = rpn.head(levels)
    objectness, deltas = [o.float() for o in raw], [d.float() for d in raw_deltas]
    anchors = rpn.anchor_generator(images, levels)
    per_level = [o[0].numel() for o in objectness]
    flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
    boxes = rpn.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4)
    proposals, _ = rpn.filter_proposals(boxes, flat, images.image_sizes, per_level)
    labels, matched = rpn.assign_targets_to_anchors(anchors, [{"boxes": t.boxes} for t in targets])
    for label, anchor, table in zip(labels, anchors, tables, strict=True):
        label[(label == 0) & (_ignored_share(table, anchor) > IGNORED_SHARE)] = -1
    if not any(bool((label >= 0).any()) for label in labels):
        nothing = 0 * (flat.sum() + flat_deltas.sum())
        return proposals, {"objectness": nothing, "proposals": nothing}
    wanted = rpn.box_coder.encode(matched, anchors)
    of_objects, of_boxes = rpn.compute_loss(flat, flat_deltas, labels, wanted)
    return proposals, {"objectness": of_objects, "proposals": of_boxes}


def _region_loss(
    heads: RoIHeads, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]],
    targets: Sequence[Target], tables: Sequence[Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """What the second stage has to learn of some of the proposals and of all true boxes."""
    regions, matched, labels, wanted = _chosen_regions(heads, proposals, targets, tables)
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, regions, sizes)))
    logits, deltas = logits.float(), deltas.float()
    if len(logits):
        classes, boxes = fastrcnn_loss(logits, deltas, labels, wanted)
    else:
        classes = boxes = 0 * (logits.sum() + deltas.sum())
    are_objects = [label > 0 for label in labels]
    regions, matched, labels = (
        [v[o] for v, o in zip(values, are_objects, strict=True)] for values in (regions, matched, labels)
    )
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, regions, sizes))).float()
    return {"classes": classes, "boxes": boxes, "masks": _mask_loss(masks, regions, matched, labels, targets)}


def _chosen_regions(
    heads: RoIHeads, proposals: list[Tensor], targets: Sequence[Target], tables: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
    """Boxes to learn from, the object each is matched to, its class (0 background) and the box it should become."""
    true = [target.boxes for target in targets]
    regions = heads.add_gt_proposals(proposals, true)
    matched, labels = heads.assign_targets_to_proposals(regions, true, [target.labels for target in targets])
    for label, region, table in zip(labels, regions, tables, strict=True):
        label[(label == 0) & (_ignored_share(table, region) > IGNORED_SHARE)] = -1
    chosen = heads.subsample(labels)
    regions, matched, labels = (
        [v[c] for v, c in zip(values, chosen, strict=True)] for values in (regions, matched, labels)
    )  # fmt: skip
    # Background of an image without objects is matched to a box that does not count.
    own = [t if len(t) else region.new_zeros(1, 4) for t, region in zip(true, regions, strict=True)]
    wanted = heads.box_coder.encode([t[m] for t, m in zip(own, matched, strict=True)], regions)
    return regions, matched, labels, list(wanted)


def _mask_loss(
    logits: Tensor, regions: Sequence[Tensor], matched: Sequence[Tensor], labels: Sequence[Tensor], targets: Sequence[Target]
) -> Tensor:  # fmt: skip
    """Binary cross entropy of each region's mask of its own class."""
    if not len(logits):
        return 0 * logits.sum()
    side = logits.shape[-1]
    wanted = [mask_targets(t.objects, t.ids[m], r, side) for t, m, r in zip(targets, matched, regions, strict=True)]
    classes = torch.cat(list(labels))
    own = logits[torch.arange(len(classes), device=classes.device), classes]
    return F.binary_cross_entropy_with_logits(own, torch.cat(wanted))


def mask_targets(objects: Tensor, ids: Tensor, regions: Tensor, side: int) -> Tensor:
    """Share of the region's own object in each cell of a grid of `side` cells over the region, `(n, side, side)`.

    Equal to torchvision's `project_masks_on_boxes`, with 16 masks in memory at once.

    Args:
        objects: `(h, w)` ids.
        ids: `(n,)` object of each region.
        regions: `(n, 4)` boxes, px.
        side: Cells along each axis.
    """
    masks = regions.new_zeros(len(regions), side, side)
    for some in torch.split(torch.unique(ids), _PLANES):
        planes = (objects == some[:, None, None]).to(regions.dtype)[:, None]
        plane = torch.searchsorted(some, ids).clamp_max(len(some) - 1)
        mine = torch.nonzero(some[plane] == ids)[:, 0]
        rois = torch.cat([plane[mine, None].to(regions.dtype), regions[mine]], dim=1)
        masks[mine] = roi_align(planes, rois, (side, side), 1.0)[:, 0]
    return masks


def _table(ignored: Tensor) -> Tensor:
    """Summed-area table `(h + 1, w + 1)` of a boolean image."""
    return F.pad(ignored.to(torch.float32).cumsum(0).cumsum(1), (1, 0, 1, 0))


def _ignored_share(table: Tensor, boxes: Tensor) -> Tensor:
    """`(n,)` share of ignored pixels in the part of each box that lies in the image."""
    height, width = table.shape[0] - 1, table.shape[1] - 1
    left, right = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    top, bottom = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return inside / ((bottom - top) * (right - left)).clamp_min(1)
