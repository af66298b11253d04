"""An image and point prompts through a Segment Anything network, in one of two ways that give the same masks.

`LeanSam`: the published arithmetic rearranged (`sam_encoder`, `sam_low_rank`, `sam_upscale`); equal up to rounding.
`StockSam`: segment-anything's modules as its own predictor calls them, all of them for every point: for comparison.

Both give the logits of the masks whose predicted IoU passes, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor, nn

from seggeo.models.device import upload
from seggeo.models.finite import require_finite
from seggeo.models.sam_encoder import LeanEncoder
from seggeo.models.sam_low_rank import ImageTokens, LowRankTransformer, SharedTokens
from seggeo.models.sam_upscale import MaskHead, SharedCells

FloatArray = NDArray[np.float32]
Way = Literal["lean", "stock"]

GROUP = 16
"""Points that a CPU decodes together: their image tokens' rows are 30 MB, the most that memory is reused for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Masks of a batch of points whose predicted IoU passes."""

    logits: Tensor
    """`(m, side, side)`, float32, on the network's device; a cell covers several px of the network's input."""
    iou: FloatArray
    """Predicted IoU, `(m,)`."""
    point: NDArray[np.int64]
    """Position in the batch, `(m,)`, ascending."""


class SamNetwork(Protocol):
    """A Segment Anything network and a way to run it."""

    sam: Sam
    encoder: nn.Module

    def share(self, embedding: Tensor) -> Any:
        """What all points of an image share, from its embedding `(1, channels, grid, grid)`."""

    def decode(self, shared: Any, points: NDArray[np.float64], pred_iou_thresh: float) -> Decoded:
        """Low-resolution logits of the masks that the network thinks good.

        Args:
            shared: From `share`.
            points: `(n, 2)`, x and y in px of the network's input.
            pred_iou_thresh: Masks above it are kept; 0 keeps all.

        Raises:
            ModelError: A logit or a predicted IoU is NaN or infinite.
        """


def open_network(sam: Sam, way: Way = "lean", *, fused: bool | None = None) -> SamNetwork:
    """The network, in eval mode and on its device, to be run in that way; `fused` as in `LeanEncoder`."""
    return LeanSam(sam, fused=fused) if way == "lean" else StockSam(sam)


def encode(network: SamNetwork, image: NDArray[np.uint8], scaled: tuple[int, int], *, autocast: bool) -> Tensor:
    """Image embedding `(1, channels, grid, grid)`, float32.

    Args:
        network: The network.
        image: RGB `(h, w, 3)`.
        scaled: Height and width of the image in the network's input, the longer one filling it.
        autocast: Run in bfloat16.

    Raises:
        ModelError: The embedding holds NaN or infinite values.
    """
    sam = network.sam
    if image.shape[:2] != scaled:
        image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(scaled[::-1], Image.Resampling.BILINEAR))
    pixels = upload(image.transpose(2, 0, 1), sam.device)
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=autocast):
        embedding: Tensor = network.encoder(sam.preprocess(pixels[None]))
    require_finite("image encoder", embedding)
    return embedding.float()


class StockSam:
    """The published modules, called as the published predictor calls them."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.encoder: nn.Module = sam.image_encoder

    def share(self, embedding: Tensor) -> Tensor:
        """The embedding itself."""
        return embedding

    def decode(self, shared: Tensor, points: NDArray[np.float64], pred_iou_thresh: float) -> Decoded:
        """See `SamNetwork.decode`."""
        sam = self.sam
        sparse, dense = _prompts(sam, points)
        logits, iou = sam.mask_decoder(
            image_embeddings=shared, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=True,
        )  # fmt: skip
        passing = _passing(iou, pred_iou_thresh)
        return _decoded([logits[passing]], iou, passing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    tokens: SharedTokens
    cells: SharedCells


class LeanSam:
    """The same network with what points share computed once, and masks only for points that have one worth it.

    The weights are rearranged here: they must not change, nor move to another device, afterwards. `fused` and `side_by_side`
    are those of `LeanEncoder` and `LowRankTransformer`.
    """

    def __init__(self, sam: Sam, *, fused: bool | None = None, side_by_side: bool | None = None) -> None:
        self.sam = sam
        self.encoder: nn.Module = LeanEncoder(sam.image_encoder, fused=fused)
        self._group = GROUP if sam.device.type == "cpu" else None
        positions = sam.prompt_encoder.get_dense_pe()[0].flatten(1)
        with torch.no_grad():
            self._transformer = LowRankTransformer(sam.mask_decoder.transformer, positions, side_by_side=side_by_side)
            self._head = MaskHead(sam.mask_decoder, self._transformer.offset, side_by_side=side_by_side)

    def share(self, embedding: Tensor) -> _Shared:
        """What all points of an image share."""
        no_mask = self.sam.prompt_encoder.no_mask_embed.weight.reshape(-1, 1)
        tokens = self._transformer.share(embedding[0].flatten(1) + no_mask)
        return _Shared(tokens=tokens, cells=self._head.share(tokens.base))

    def decode(self, shared: _Shared, points: NDArray[np.float64], pred_iou_thresh: float) -> Decoded:
        """See `SamNetwork.decode`."""
        decoder = self.sam.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        sparse, _ = _prompts(self.sam, points)
        tokens = torch.cat([own.expand(len(points), -1, -1), sparse], 1)
        logits: list[Tensor] = []
        iou: list[Tensor] = []
        for some in torch.split(tokens, self._group or len(tokens)):
            answers, image = self._transformer(shared.tokens, some)
            quality = decoder.iou_prediction_head(answers[:, 0])[:, 1:]
            logits.append(self._masks(shared.cells, answers, image, _passing(quality, pred_iou_thresh)))
            iou.append(quality)
        all_iou = torch.cat(iou)
        return _decoded(logits, all_iou, _passing(all_iou, pred_iou_thresh))

    def _masks(self, cells: SharedCells, answers: Tensor, image: ImageTokens, passing: Tensor) -> Tensor:
        """Logits `(m, side, side)` of the passing masks."""
        some = passing.any(1).nonzero()[:, 0]
        heads = self.sam.mask_decoder.output_hypernetworks_mlps[1:]
        masks = torch.stack([head(answers[some, 2 + i]) for i, head in enumerate(heads)], 1)
        return self._head(cells, image, some, masks)[passing[some]]


def _prompts(sam: Sam, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Prompt embeddings of single points that mark objects, `(n, 2, channels)`, and those of their absent masks."""
    place = torch.from_numpy(points).to(sam.device, torch.float32 if sam.device.type == "mps" else torch.float64)
    present = torch.ones((len(points), 1), dtype=torch.int, device=sam.device)
    sparse, dense = sam.prompt_encoder(points=(place[:, None], present), boxes=None, masks=None)
    return sparse, dense


def _passing(iou: Tensor, threshold: float) -> Tensor:
    return iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)


def _decoded(logits: list[Tensor], iou: Tensor, passing: Tensor) -> Decoded:
    require_finite("mask decoder", iou, *logits)
    return Decoded(
        logits=torch.cat(logits),
        iou=iou[passing].cpu().numpy(),
        point=passing.nonzero()[:, 0].cpu().numpy(),
    )
