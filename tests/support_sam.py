"""A Segment Anything network small enough for tests, whose weights are written by hand so that its masks make sense.

It has every part of the original at toy size (128 px input, 0.2 M parameters) and finds, from a point prompt, the bright
thing under the point, at three levels of brightness. How: the patch embedding stores the brightness of 2 px cells; in the
first decoder layer the image tokens near the prompt attend to the prompt's token through their positional codes and get
marked `near`; the upscaling head adds brightness and mark. All other weights are seeded noise, so that nothing is dead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

SIDE = 128
"""Network input of the toy, px: use tiles of this size."""
SETTINGS = {"points_per_side": 64, "stability_score_thresh": 0.8}
"""`--set` values that suit it: a 16 px lattice, and edges that are some px wide compared with small objects."""

_DECODER_HEADS = 2
_LARGE = 16.0  # two constant channels of this size make a layer norm a division by a constant
_CELLS = slice(0, 16)
_NEGATIVE = slice(32, 48)  # minus the cells: the mean over the channels stays 0
_NEAR = 18
_MARKS = slice(19, 26)  # which token is which: quality, 4 masks, point, padding
_POINT = 24
_BRIGHT, _ON = 2, 3  # brightness under the prompt, and whether that is bright at all
_HASH = [0, 1]  # fine positional codes: what makes predicted IoU differ from point to point
_PLACE = [*range(26, 32)]  # coarse positional codes of 6 frequencies


def _codes(channels: list[int], width: int) -> list[int]:
    """Channels of the sines and of the cosines of positional codes; a code has `width` channels, cosines last."""
    return [*channels, *(c + width // 2 for c in channels)]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far from a prompt things are near: where three waves of each of two lengths still add up to `least` of 6."""

    fine: float
    """Waves in half an image."""
    coarse: float
    least: float


def make_sam_weights(path: Path, seed: int = 0) -> Path:
    """Write a toy checkpoint, `.safetensors`, that finds bright blobs of some 8 to 20 px radius; see `SETTINGS`."""
    sam = make_sam(seed)
    metadata = {"seggeo": json.dumps({"decoder_heads": _DECODER_HEADS})}
    save_file({key: tensor.contiguous() for key, tensor in sam.state_dict().items()}, path, metadata=metadata)
    return path


def blob_image(height: int, width: int, seed: int = 0, step: int = 56, fill: float = 1.0) -> NDArray[np.uint8]:
    """RGB `(height, width, 3)` of bright discs with brighter cores, every `step` px, on a dark ground with noise."""
    rng = np.random.default_rng(seed)
    gray = np.full((height, width), 60.0)
    rows, cols = np.mgrid[:height, :width]
    for row in range(step // 2, height, step):
        for col in range(step // 2, width, step):
            centre = np.array([row, col]) + rng.uniform(-step / 10, step / 10, 2)
            distance = np.hypot(rows - centre[0], cols - centre[1])
            radius = fill * rng.uniform(step / 6.5, step / 4.5)
            gray[distance < radius] = 160
            gray[distance < 0.55 * radius] = 240
    return np.clip(gray[..., None] + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)


def make_sam(seed: int = 0) -> Sam:
    """The toy network in eval mode."""
    torch.manual_seed(seed)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2, out_chans=64, use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=7, global_attn_indexes=(1,),
        ),
        prompt_encoder=PromptEncoder(64, image_embedding_size=(16, 16), input_image_size=(SIDE, SIDE), mask_in_chans=8),
        mask_decoder=MaskDecoder(
            transformer_dim=64, transformer=TwoWayTransformer(2, 64, _DECODER_HEADS, 64),
            iou_head_depth=3, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    return _write(sam, blob_image(SIDE, SIDE), Reach(fine=0.67, coarse=0.32, least=3.0))


def make_vit_b(seed: int = 0) -> Sam:
    """The same idea written into a ViT-B of the published size: blobs of some 30 to 45 px radius."""
    return make_vit("vit_b", seed)


def make_vit(name: str, seed: int = 0) -> Sam:
    """The same for `vit_b`, `vit_l` or `vit_h`."""
    torch.manual_seed(seed)
    return _write(
        sam_model_registry[name](), blob_image(1024, 1024, step=128, fill=1.5), Reach(fine=1.55, coarse=0.28, least=5.2)
    )


@torch.no_grad()
def _write(sam: Sam, sample: NDArray[np.uint8], reach: Reach) -> Sam:
    for name, tensor in sam.named_parameters():
        is_norm_weight = tensor.ndim == 1 and name.endswith("weight")
        tensor.fill_(1.0) if is_norm_weight else tensor.normal_(0, 0.002)
    _write_encoder(sam.image_encoder)
    _write_prompts(sam.prompt_encoder, reach)
    _write_transformer(sam.mask_decoder.transformer, reach)
    _write_heads(sam.mask_decoder)
    _calibrate_quality(sam, sample)
    return sam.eval()


def _scale_only(norm: nn.Module, channels: list[int], gain: float) -> None:
    norm.weight.zero_()
    norm.bias.zero_()
    norm.weight[channels] = gain


def _gain(width: int) -> float:
    """What a layer norm of `width` channels divides by."""
    return _LARGE * (2 / width) ** 0.5


def _write_encoder(encoder: ImageEncoderViT) -> None:
    embed, cell = encoder.patch_embed.proj, encoder.patch_embed.proj.kernel_size[0] // 4
    for i in range(16):
        row, col = (cell * v for v in divmod(i, 4))
        embed.weight[i, :, row : row + cell, col : col + cell] += 1 / (3 * cell * cell)
    embed.bias[16:18] += torch.tensor([_LARGE, -_LARGE])
    first, first_norm, second, second_norm = encoder.neck
    width = first.out_channels
    first.weight[range(18), range(18)] += 1
    first.weight[range(32, 48), range(16)] -= 1
    second.weight[range(width), range(width), 1, 1] += 1
    for norm in (first_norm, second_norm):
        _scale_only(norm, [*range(18), *range(32, 48)], _gain(width))


def _write_prompts(prompts: PromptEncoder, reach: Reach) -> None:
    frequencies = torch.zeros(2, prompts.embed_dim // 2)
    for i, angle in enumerate((0.0, np.pi / 3, 2 * np.pi / 3)):
        direction = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
        frequencies[:, 26 + i], frequencies[:, 29 + i] = reach.fine * direction, reach.coarse * direction
    frequencies[:, :2] = torch.tensor([[5.3, 2.1], [-1.7, 4.9]])
    prompts.pe_layer.positional_encoding_gaussian_matrix.copy_(frequencies)
    prompts.point_embeddings[1].weight[0, _POINT] += 8
    prompts.not_a_point_embed.weight[0, _POINT + 1] += 8
    prompts.no_mask_embed.weight.zero_()


def _write_transformer(transformer: TwoWayTransformer, reach: Reach) -> None:
    width, heads = transformer.embedding_dim, transformer.num_heads
    for layer in transformer.layers:
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            _scale_only(norm, [*range(19, 26), *_codes(_HASH, width), _BRIGHT, _ON], 8 / width**0.5)
        _scale_only(layer.norm4, [*range(19), *range(32, 48)], _gain(width))
    own = transformer.layers[0].self_attn  # every token keeps itself and takes a little of the others
    for head in range(heads):
        for i, mark in enumerate(range(_MARKS.start, _MARKS.stop)):
            own.q_proj.weight[32 * head + i, mark] += 0.6
            own.k_proj.weight[32 * head + i, mark] += 0.6
    own.v_proj.weight += torch.eye(width)
    own.out_proj.weight += torch.eye(width)
    first = transformer.layers[0]
    _attend_by_place(first.cross_attn_token_to_image, steepness=60.0)
    _attend_by_place(first.cross_attn_image_to_token, steepness=8.0)
    ask, answer = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    ask.v_proj.weight[0, _CELLS] += 1 / 16
    ask.out_proj.weight[_BRIGHT, 0] += 1
    first.mlp.lin1.weight[:2, _BRIGHT] += 4  # a ramp from 0 to 1 between two levels of brightness
    first.mlp.lin1.weight[:2, _POINT] += 0.5  # the other tokens see the mean of the image, which may be bright too
    first.mlp.lin1.bias[:2] += torch.tensor([2.0, 1.0]) - 0.5 * 7.5
    first.mlp.lin2.weight[_ON, :2] += torch.tensor([2.0, -2.0])
    for head in range(heads):
        answer.q_proj.bias[16 * head + 12] += 1
        answer.k_proj.weight[16 * head + 12, _POINT] -= 4 * 8.0 * reach.least / 16
    answer.v_proj.weight[0, _ON] += 1
    answer.v_proj.bias[0] += 0.4
    answer.out_proj.weight[_NEAR, 0] += 1


def _attend_by_place(attention: nn.Module, steepness: float) -> None:
    for head in range(attention.num_heads):
        for i, channel in enumerate(_codes(_PLACE, attention.embedding_dim)):
            attention.q_proj.weight[16 * head + i, channel] += (4 * steepness) ** 0.5
            attention.k_proj.weight[16 * head + i, channel] += (4 * steepness) ** 0.5


def _write_heads(decoder: MaskDecoder) -> None:
    decoder.iou_token.weight[0, _MARKS.start] += 8
    for i in range(4):
        decoder.mask_tokens.weight[i, _MARKS.start + 1 + i] += 8
    coarse, norm, _, fine, _ = decoder.output_upscaling
    for row, col in np.ndindex(2, 2):
        for sub_row, sub_col in np.ndindex(2, 2):
            cell = 4 * (2 * row + sub_row) + 2 * col + sub_col
            out = 2 * sub_row + sub_col
            coarse.weight[cell, out, row, col] += 1
            coarse.weight[cell, 8 + out, row, col] -= 1
        coarse.weight[_NEAR, 4, row, col] -= 4
        coarse.weight[_NEAR, 12, row, col] += 4
        coarse.weight[16, 5, row, col] += 1
        coarse.weight[17, 6, row, col] += 1
    _scale_only(norm, list(range(5)), _gain(coarse.out_channels))
    norm.bias[:4] = 8  # far above 0, where GELU is the identity
    norm.bias[4] = 3.2  # here it cuts: 0 wherever the mark is 0.8 or more
    slope, distance, floor = 30.0, 60.0, 10.0
    for row, col in np.ndindex(2, 2):
        fine.weight[2 * row + col, :3, row, col] += slope
        fine.weight[4, :3, row, col] -= distance
    levels = torch.tensor([-0.1, 0.3, 1.5])
    fine.bias[:3] = floor - slope * (8 + levels)
    fine.bias[3] = floor
    for i, head in enumerate(decoder.output_hypernetworks_mlps):
        head.layers[-1].bias[[max(i - 1, 0), 3]] += torch.tensor([1.0, -1.0])
    quality = decoder.iou_prediction_head.layers
    quality[0].weight[:, _codes(_HASH, decoder.transformer_dim)] = torch.randn(quality[0].out_features, 4) * 3
    quality[1].weight.normal_(0, 0.3)
    quality[2].weight.normal_(0, 0.15)


def _calibrate_quality(sam: Sam, sample: NDArray[np.uint8]) -> None:
    """Predicted IoU of 0.92 to 0.96 on average over points on blobs, 0.02 more or less from point to point."""
    image = torch.from_numpy(sample)
    places = (image[..., 0] > 120).nonzero()[:, [1, 0]].float()[:, None]
    places = places[:: len(places) // 64 + 1]
    embedding = sam.image_encoder(sam.preprocess(image.permute(2, 0, 1)[None]))
    sparse, dense = sam.prompt_encoder((places, torch.ones(len(places), 1)), None, None)
    quality = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)[1]
    gain = 0.02 / quality.std(0)
    last = sam.mask_decoder.iou_prediction_head.layers[-1]
    last.weight.mul_(gain[:, None])
    last.bias.copy_(torch.tensor([0.5, 0.96, 0.94, 0.92]) + gain * (last.bias - quality.mean(0)))
