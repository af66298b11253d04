"""An image and point prompts through segment-anything's modules: the same numbers as the stock predictor, sooner.

The decoder's modules are called one by one. What is equal for all points (the image side of its first layer) is
computed once instead of per point, and the upscaling head, after the quality head, runs only for points with a mask
above the predicted-IoU threshold. At the published size results on the CPU are bitwise those of `sam.mask_decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor

FloatArray = NDArray[np.float32]

UPSCALE_CHUNK = 16
"""Points that go through the upscaling head at once: its widest tensor is 8 MB a point at 1024 px."""


def encode(sam: Sam, image: NDArray[np.uint8], scaled: tuple[int, int], *, autocast: bool) -> Tensor:
    """Image embedding `(1, channels, grid, grid)`, float32.

    Args:
        sam: The network.
        image: RGB `(h, w, 3)`.
        scaled: Height and width of the image in the network's input, the longer one filling it.
        autocast: Run in bfloat16.
    """
    if image.shape[:2] != scaled:
        image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(scaled[::-1], Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(sam.device)
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=autocast):
        embedding: Tensor = sam.image_encoder(sam.preprocess(pixels[None]))
    return embedding.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Masks of a batch of points whose predicted IoU passes."""

    logits: Tensor
    """`(m, side, side)`, float32, on the CPU; a cell covers several px of the network's input."""
    iou: FloatArray
    """Predicted IoU, `(m,)`."""
    point: NDArray[np.int64]
    """Position in the batch, `(m,)`, ascending."""


def decode(sam: Sam, embedding: Tensor, points: NDArray[np.float64], pred_iou_thresh: float) -> Decoded:
    """Low-resolution logits of the masks that the network thinks good, equal to those of `sam.mask_decoder`.

    Args:
        sam: The network.
        embedding: Of the image, from `encode`.
        points: `(n, 2)`, x and y in px of the network's input.
        pred_iou_thresh: Masks above it are kept; 0 keeps all.
    """
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    place = torch.from_numpy(points).to(sam.device, torch.float32 if sam.device.type == "mps" else torch.float64)
    present = torch.ones((len(points), 1), dtype=torch.int, device=sam.device)
    sparse, _ = prompts(points=(place[:, None], present), boxes=None, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(points), -1, -1), sparse], 1)
    # One image for all points, not a copy each: the modules broadcast it, so layer 0 projects it once.
    image = embedding + prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
    answers, keys = decoder.transformer(image, prompts.get_dense_pe(), tokens)
    iou = decoder.iou_prediction_head(answers[:, 0])[:, 1:]
    passing = iou > pred_iou_thresh if pred_iou_thresh > 0 else torch.ones_like(iou, dtype=torch.bool)
    some = passing.any(1).nonzero()[:, 0]
    logits = [_upscale(sam, answers[chunk], keys[chunk])[passing[chunk]].cpu() for chunk in some.split(UPSCALE_CHUNK)]
    side = prompts.mask_input_size[0]
    return Decoded(
        logits=torch.cat(logits) if len(some) else torch.zeros((0, side, side)),
        iou=iou[passing].cpu().numpy(),
        point=passing.nonzero()[:, 0].cpu().numpy(),
    )


def _upscale(sam: Sam, answers: Tensor, keys: Tensor) -> Tensor:
    decoder = sam.mask_decoder
    count, channels = len(keys), keys.shape[-1]
    fine = decoder.output_upscaling(keys.transpose(1, 2).reshape(count, channels, *sam.prompt_encoder.image_embedding_size))
    # All masks including the unused first: with fewer rows the matrix product rounds otherwise than the stock one.
    weights = torch.stack([head(answers[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1)
    logits: Tensor = (weights @ fine.flatten(2)).unflatten(2, fine.shape[2:])
    return logits[:, 1:]
