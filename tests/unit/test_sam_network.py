"""A checkpoint's tensors tell the whole network; what does not fit is refused by name."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from support_sam import make_sam, make_sam_weights
from torch import nn

from seggeo.errors import ModelError
from seggeo.models.sam import load
from seggeo.models.sam_network import build, read_shape
from seggeo.models.weights import load_state
from seggeo.protocols import ModelRequest

SMALL = {
    "side": 96, "patch": 8, "dim": 24, "depth": 3, "heads": 3, "window": 5, "whole": (1,),
    "width": 32, "decoder_heads": 4, "layers": 1, "masks": 3,
}  # fmt: skip


def small_sam(**changes):
    side, patch, dim, depth, heads, window, whole, width, decoder_heads, layers, masks = {**SMALL, **changes}.values()
    torch.manual_seed(0)
    grid = side // patch
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=side, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=2, out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=window, global_attn_indexes=whole,
        ),
        prompt_encoder=PromptEncoder(width, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=4),
        mask_decoder=MaskDecoder(
            transformer_dim=width, num_multimask_outputs=masks, iou_head_depth=2, iou_head_hidden_dim=12,
            transformer=TwoWayTransformer(layers, width, decoder_heads, 40, attention_downsample_rate=1),
        ),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"side": 64, "patch": 16, "dim": 48, "heads": 6, "window": 3, "whole": ()},
        {"side": 80, "depth": 2, "whole": (0, 1), "layers": 2, "masks": 2, "decoder_heads": 8},
    ],
)
def test_the_rebuilt_network_computes_the_same(tmp_path, sizes):
    sam = small_sam(**sizes)
    path = tmp_path / "small.safetensors"
    save_file(sam.state_dict(), path, {"seggeo": json.dumps({"decoder_heads": sizes.get("decoder_heads", 4)})})

    state, metadata = load_state(path)
    again = build(state, metadata, path)

    side = sam.image_encoder.img_size
    request = [{
        "image": torch.rand(3, side, side - 8) * 255, "original_size": (side, side - 8),
        "point_coords": torch.tensor([[[20.0, 30.0]]]), "point_labels": torch.ones(1, 1),
    }]  # fmt: skip
    one, two = sam(request, True)[0], again(request, True)[0]
    assert torch.equal(one["low_res_logits"], two["low_res_logits"])
    assert torch.equal(one["iou_predictions"], two["iou_predictions"])
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_recognised(tmp_path, name):
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    shape = read_shape(sam.state_dict(), {}, tmp_path / "sam.pth")
    blocks = sam.image_encoder.blocks
    assert shape.name == name
    assert (shape.image_size, shape.patch, shape.window, shape.decoder_heads) == (1024, 16, 14, 8)
    assert shape.heads == blocks[0].attn.num_heads
    assert shape.global_blocks == tuple(i for i, block in enumerate(blocks) if block.window_size == 0)
    assert (shape.mlp_ratio, shape.attention_rate, shape.decoder_mlp, shape.iou_dim, shape.masks) == (4, 2, 2048, 256, 3)


def test_half_precision_and_pth_files_load(tmp_path):
    sam = small_sam(decoder_heads=8)
    torch.save({"model": {f"module.{k}": v.half() for k, v in sam.state_dict().items()}}, tmp_path / "half.pth")
    model = load(ModelRequest(name="sam", weights=tmp_path / "half.pth", device="cpu"))
    assert all(p.dtype == torch.float32 for p in model.network.sam.parameters())
    assert model.info.tile == 96


def test_the_pixel_mean_is_not_lost(tmp_path):
    path = make_sam_weights(tmp_path / "toy.safetensors")
    model = load(ModelRequest(name="sam", weights=path, device="cpu"))
    sam = make_sam()
    assert torch.equal(model.network.sam.pixel_mean, sam.pixel_mean)
    assert torch.equal(model.network.sam.pixel_std, sam.pixel_std)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("image_encoder.trunk.pos_embed", "SAM 2"),
        ("sam_mask_decoder.iou_token.weight", "SAM 2"),
        ("image_encoder.layers.0.blocks.0.weight", "MobileSAM"),
        ("mask_decoder.hf_token.weight", "SAM-HQ"),
        ("vision_encoder.pos_embed", "transformers"),
        ("backbone.body.conv1.weight", "image_encoder.pos_embed"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, key, word):
    save_file({key: torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=word):
        load(ModelRequest(name="sam", weights=tmp_path / "other.safetensors", device="cpu"))


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: without(s, "image_encoder.neck.0.weight"), "neck.0.weight"),
        (lambda s: without(s, "image_encoder.blocks.1.attn.rel_pos_h"), "size cannot be read"),
        (lambda s: without(s, "mask_decoder.iou_token.weight"), "iou_token"),
        (lambda s: {**s, "mask_decoder.extra.weight": torch.zeros(1)}, "extra"),
        (lambda s: {**s, "image_encoder.neck.0.weight": torch.zeros(3, 3, 1, 1)}, "neck.0.weight"),
        (lambda s: {**s, "image_encoder.pos_embed": torch.zeros(5)}, "size cannot be read"),
        (lambda s: {**s, "mask_decoder.iou_token.weight": torch.zeros(1, 30)}, "do not fit together|do not fill"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, change, word):
    path = tmp_path / "damaged.pth"
    torch.save(change(small_sam(decoder_heads=8).state_dict()), path)
    with pytest.raises(ModelError, match=word):
        load(ModelRequest(name="sam", weights=path, device="cpu"))


def test_a_head_count_that_cannot_be_is_refused(tmp_path):
    path = tmp_path / "toy.safetensors"
    save_file(small_sam().state_dict(), path, {"seggeo": json.dumps({"decoder_heads": 7})})
    with pytest.raises(ModelError, match="do not fit together"):
        load(ModelRequest(name="sam", weights=path, device="cpu"))


def test_the_seed_decides_the_toy(tmp_path):
    one, two, other = (make_sam_weights(tmp_path / f"{i}.safetensors", seed) for i, seed in enumerate((0, 0, 1)))
    assert one.read_bytes() == two.read_bytes()
    assert not np.array_equal(load_state(one)[0]["image_encoder.pos_embed"], load_state(other)[0]["image_encoder.pos_embed"])
