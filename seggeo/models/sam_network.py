"""segment-anything's network rebuilt from the shapes of a checkpoint's tensors, loaded strictly.

1. `recognise`: a state dict of another family (SAM 2, MobileSAM, SAM-HQ, transformers) is refused by its name.
2. `read_shape`: every size is read off the tensors; only the decoder's head count leaves no trace in them: 8 in all
   published models, else `decoder_heads` in the JSON under the safetensors metadata key `seggeo`.
3. `build`: the stock modules at that size, filled strictly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from seggeo.errors import ModelError
from seggeo.models.weights import load_strictly

State = Mapping[str, Tensor]

SIZES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
STANDARD_DECODER_HEADS = 8
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

_FAMILIES = (
    ("SAM-HQ", re.compile(r"mask_decoder\.hf_token\.")),
    ("SAM 2", re.compile(r"(image_encoder\.trunk|sam_mask_decoder|memory_encoder|memory_attention)\.")),
    ("MobileSAM (TinyViT)", re.compile(r"image_encoder\.(layers|patch_embed\.seq)\.")),
    ("transformers SamModel", re.compile(r"(vision_encoder\.|shared_image_embedding\.)")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """Every size of a SAM network."""

    image_size: int
    """Side of the square network input, px."""
    patch: int
    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float
    window: int
    """Side of the windowed blocks' attention, patches."""
    global_blocks: tuple[int, ...]
    prompt_dim: int
    mask_channels: int
    masks: int
    """Masks per point."""
    decoder_depth: int
    decoder_heads: int
    decoder_mlp: int
    attention_rate: int
    iou_depth: int
    iou_dim: int

    @property
    def grid(self) -> int:
        """Image tokens along one side."""
        return self.image_size // self.patch

    @property
    def name(self) -> str:
        """vit_b, vit_l or vit_h; other sizes are spelled out."""
        return SIZES.get((self.embed_dim, self.depth), f"vit_{self.embed_dim}x{self.depth}")


def build(state: State, metadata: Mapping[str, Any], path: Path) -> Sam:
    """The network of a state dict, in eval mode on the CPU, float32.

    Args:
        state: Tensors by name, as segment-anything saves them.
        metadata: What `weights.load_state` gave with them.
        path: The file they came from, for messages.

    Raises:
        ModelError: Another family's checkpoint, sizes that contradict each other, missing or unexpected tensors.
    """
    recognise(state, path)
    shape = read_shape(state, metadata, path)
    try:
        with torch.device("meta"):  # no time and memory for initial values that are replaced at once
            sam = _assemble(shape)
    except (AssertionError, RuntimeError) as error:
        raise _refusal(path, f"its sizes do not fit together: {shape} ({error})") from error
    sam = sam.to_empty(device="cpu")
    load_strictly(sam, state, path)
    # Not part of the state dict, the same in every checkpoint.
    sam.pixel_mean, sam.pixel_std = (torch.tensor(v).view(-1, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    network: Sam = sam.eval().requires_grad_(False)
    return network


def recognise(state: State, path: Path) -> None:
    """Refuse state dicts of other networks by name.

    Raises:
        ModelError: Not a checkpoint of the original segment-anything.
    """
    for family, pattern in _FAMILIES:
        if any(pattern.match(key) for key in state):
            raise _refusal(path, f"its tensors are those of {family}, another network")
    needed = ("image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight", "mask_decoder.iou_token.weight")
    absent = [key for key in needed if key not in state]
    if absent:
        raise _refusal(path, f"it has no tensor called {', '.join(absent)}")


def read_shape(state: State, metadata: Mapping[str, Any], path: Path) -> NetworkShape:
    """Sizes of the network that a state dict belongs to.

    Raises:
        ModelError: A tensor that tells a size is absent or has the wrong number of axes.
    """
    try:
        shape = _read_shape(state, metadata.get("seggeo", {}))
    except (KeyError, ValueError, IndexError, ZeroDivisionError, TypeError) as error:
        raise _refusal(path, f"its size cannot be read from its tensors ({type(error).__name__}: {error})") from error
    if shape.patch < 8 or shape.patch % 4:
        raise _refusal(path, f"patches of {shape.patch} px are not 8, 12, 16, ...: its masks would not fit its input")
    return shape


def _read_shape(state: State, stated: Mapping[str, Any]) -> NetworkShape:
    _, grid, _, dim = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    lengths = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    windows = [(length + 1) // 2 for length, _ in lengths]
    prompt_dim = state["mask_decoder.iou_token.weight"].shape[-1]
    layer = "mask_decoder.transformer.layers.0."
    iou_depth = _count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.")
    return NetworkShape(
        image_size=grid * patch, patch=patch, embed_dim=dim, depth=depth,
        heads=int(stated.get("heads", dim // lengths[0][1])),
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / dim,
        window=min(windows), global_blocks=tuple(i for i, side in enumerate(windows) if side == grid),
        prompt_dim=prompt_dim,
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        masks=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        decoder_depth=_count(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        decoder_heads=int(stated.get("decoder_heads", STANDARD_DECODER_HEADS)),
        decoder_mlp=state[layer + "mlp.lin1.weight"].shape[0],
        attention_rate=prompt_dim // state[layer + "cross_attn_token_to_image.q_proj.weight"].shape[0],
        iou_depth=iou_depth,
        iou_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )  # fmt: skip


def _count(state: State, pattern: str) -> int:
    found = [re.match(pattern, key) for key in state]
    return 1 + max(int(match[1]) for match in found if match)


def _assemble(shape: NetworkShape) -> Sam:
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=shape.image_size, patch_size=shape.patch, embed_dim=shape.embed_dim, depth=shape.depth,
            num_heads=shape.heads, mlp_ratio=shape.mlp_ratio, out_chans=shape.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            window_size=shape.window, global_attn_indexes=shape.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.prompt_dim, image_embedding_size=(shape.grid, shape.grid),
            input_image_size=(shape.image_size, shape.image_size), mask_in_chans=shape.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=shape.prompt_dim, num_multimask_outputs=shape.masks,
            transformer=TwoWayTransformer(
                depth=shape.decoder_depth, embedding_dim=shape.prompt_dim, num_heads=shape.decoder_heads,
                mlp_dim=shape.decoder_mlp, attention_downsample_rate=shape.attention_rate,
            ),
            iou_head_depth=shape.iou_depth, iou_head_hidden_dim=shape.iou_dim,
        ),
    )  # fmt: skip


def _refusal(path: Path, why: str) -> ModelError:
    return ModelError(
        what=f"{path} does not fit the model sam",
        why=why,
        mend="use an original segment-anything checkpoint (vit_b, vit_l or vit_h), for example: seggeo models pull sam_vit_b",
    )
