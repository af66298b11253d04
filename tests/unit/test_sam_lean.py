"""The rearranged network is the published one: logits within rounding, the same masks, no worse beside double precision."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from support_sam import SETTINGS, SIDE, blob_image, make_sam, make_sam_weights
from support_threads import one_thread
from torch import nn

from seggeo.errors import ModelError
from seggeo.geometry import Window
from seggeo.models.sam import load
from seggeo.models.sam_decode import LeanSam, StockSam, encode
from seggeo.models.sam_encoder import LeanEncoder
from seggeo.models.sam_masks import Thresholds, Work, find_masks
from seggeo.protocols import ModelRequest, TileImage
from seggeo.tiling import Tile


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def seeded(seed, *, dim=64, grid=16, heads=2, depth=2, masks=3):
    """A network with a decoder of that size, every weight and bias drawn, as PyTorch would and a little more."""
    torch.manual_seed(seed)
    sam = Sam(
        image_encoder=encoder(seed, side=16 * grid, dim=16, out=dim),
        prompt_encoder=PromptEncoder(dim, (grid, grid), input_image_size=(16 * grid, 16 * grid), mask_in_chans=4),
        mask_decoder=MaskDecoder(
            transformer_dim=dim, transformer=TwoWayTransformer(depth, dim, heads, 2 * dim), num_multimask_outputs=masks,
            iou_head_depth=2, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in sam.mask_decoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return sam.eval().requires_grad_(False)


def encoder(seed, *, side, dim, out, window=7):
    torch.manual_seed(seed)
    made = ImageEncoderViT(
        img_size=side, patch_size=16, embed_dim=dim, depth=3, num_heads=2, out_chans=out, use_rel_pos=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=window, global_attn_indexes=(1,),
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "rel_pos" in name or name.endswith("bias") or name == "pos_embed":
                parameter.normal_(0, 0.3)
    return made.eval().requires_grad_(False)


def decoded(network, embedding, points, threshold=0.0):
    with torch.inference_mode():
        return network.decode(network.share(embedding), points, threshold)


def in_double(sam, embedding, points):
    """All logits of the stock decoder in double precision, from the prompts that the others have."""
    place = torch.from_numpy(points)[:, None]
    sparse, dense = sam.prompt_encoder(points=(place, torch.ones(place.shape[:2])), boxes=None, masks=None)
    given = [t.double() for t in (embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)]
    return copy.deepcopy(sam.mask_decoder).double()(*given, multimask_output=True)[0].flatten(0, 1)


SIZES = [
    {},
    {"depth": 1},
    {"depth": 3, "heads": 4},
    {"dim": 256, "heads": 8, "grid": 16},
    {"masks": 2, "grid": 12, "dim": 32},
]


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_are_those_of_the_stock_decoder(size, side_by_side):
    sam = seeded(3, **size)
    grid, dim = sam.prompt_encoder.image_embedding_size[0], sam.mask_decoder.transformer_dim
    torch.manual_seed(5)
    embedding = torch.randn(1, dim, grid, grid)
    points = np.random.default_rng(1).uniform(0, 16 * grid, (21, 2))

    stock = decoded(StockSam(sam), embedding, points)
    lean = decoded(LeanSam(sam, side_by_side=side_by_side), embedding, points)
    exact = in_double(sam, embedding, points)

    assert stock.logits.shape == lean.logits.shape
    assert stock.logits.std() > 0.01, "a network whose logits are all alike would prove nothing"
    assert np.array_equal(stock.point, lean.point)
    assert (stock.logits - lean.logits).abs().max() < 1e-5 * max(1, stock.logits.abs().max())
    np.testing.assert_allclose(lean.iou, stock.iou, rtol=0, atol=1e-5)
    error, theirs = ((d.logits - exact).abs().max() for d in (lean, stock))
    assert error <= 3 * theirs, "rounding grows with cancellation; beside double precision it may not"


def test_the_published_decoder_size_with_its_own_image_tokens():
    sam = seeded(1, dim=256, grid=64, heads=8)
    torch.manual_seed(2)
    embedding = torch.randn(1, 256, 64, 64)
    points = np.random.default_rng(2).uniform(0, 1024, (3, 2))
    stock, lean = (decoded(way(sam), embedding, points) for way in (StockSam, LeanSam))
    assert (stock.logits - lean.logits).abs().max() < 1e-5
    assert ((stock.logits > 0) != (lean.logits > 0)).float().mean() < 1e-5


def test_only_masks_above_the_predicted_iou_are_made():
    sam = make_sam(0)
    with torch.inference_mode():
        embedding = encode(StockSam(sam), blob_image(SIDE, SIDE, seed=3), (SIDE, SIDE), autocast=False)
    points = np.random.default_rng(0).uniform(0, SIDE, (40, 2))
    for threshold in (0.0, 0.9, 0.94, 2.0):
        stock, lean = (decoded(way(sam), embedding, points, threshold) for way in (StockSam, LeanSam))
        assert np.array_equal(stock.point, lean.point)
        np.testing.assert_allclose(lean.iou, stock.iou, rtol=0, atol=1e-6)
        assert len(lean.logits) == len(lean.iou)
        assert torch.equal(stock.logits > 0, lean.logits > 0)
    everything = decoded(LeanSam(sam), embedding, points)
    assert 0 < len(decoded(LeanSam(sam), embedding, points, 0.94).iou) < len(everything.iou)
    assert len(lean.logits) == 0


@pytest.mark.parametrize("way", [StockSam, LeanSam])
@pytest.mark.parametrize(
    "part",
    ["image_encoder.neck.0.weight", "mask_decoder.iou_prediction_head.layers.0.bias", "mask_decoder.output_upscaling.0.bias"],
)
def test_nan_in_the_network_is_an_error_and_not_an_empty_tile(way, part):
    sam = make_sam(0)
    with torch.no_grad():
        sam.get_parameter(part).view(-1)[0] = float("nan")
    grid = np.stack(np.meshgrid(*[np.arange(8.0, SIDE, 16)] * 2), -1).reshape(-1, 2)

    with pytest.raises(ModelError, match="NaN or infinite"):
        find_masks(way(sam), blob_image(SIDE, SIDE, seed=3), grid, Thresholds(), Work())


def test_points_left_out_by_their_quality_cost_no_mask():
    sam = make_sam(0)
    network = LeanSam(sam)
    with torch.inference_mode():
        embedding = encode(network, blob_image(SIDE, SIDE, seed=3), (SIDE, SIDE), autocast=False)
    made = []
    for head in sam.mask_decoder.output_hypernetworks_mlps[1:]:
        head.register_forward_hook(lambda module, inputs, outputs: made.append(len(outputs)))
    points = np.random.default_rng(0).uniform(0, SIDE, (16, 2))
    answers = decoded(network, embedding, points, 0.94)
    assert made == [len(np.unique(answers.point))] * 3
    assert 0 < made[0] < 16


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "size",
    [
        {"side": 224, "dim": 32, "out": 16},  # whole windows
        {"side": 256, "dim": 32, "out": 16},  # padded windows
        {"side": 192, "dim": 160, "out": 32, "window": 5},  # 80 channels a head, as ViT-H has
        {"side": 128, "dim": 32, "out": 16, "window": 14},  # a window larger than the image
    ],
    ids=str,
)
def test_the_encoder_is_the_stock_encoder(size, fused, monkeypatch):
    monkeypatch.setattr("seggeo.models.sam_encoder.SCORES", 3 * 196 * 14)  # some rows of the global attention at a time
    stock = encoder(4, **size)
    torch.manual_seed(1)
    image = torch.randn(2, 3, size["side"], size["side"])
    with torch.inference_mode():
        wanted, found = stock(image), LeanEncoder(stock, fused=fused)(image)
        exact = copy.deepcopy(stock).double()(image.double())
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() < 1e-5 * max(1, wanted.abs().max())
    assert (found - exact).abs().max() <= 3 * (wanted - exact).abs().max()


def test_bfloat16_is_as_near_as_that_of_the_stock_encoder():
    stock = encoder(4, side=256, dim=64, out=32)
    torch.manual_seed(1)
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        exact = stock(image)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = (network(image).float() for network in (stock, LeanEncoder(stock)))
    assert (theirs - exact).abs().mean() > 1e-4, "bfloat16 does something"
    assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()


def test_the_stock_way_is_there_to_compare_and_has_a_key_of_its_own(tmp_path):
    weights = make_sam_weights(tmp_path / "toy.safetensors")
    window = Window(row=0, col=0, height=SIDE, width=SIDE)
    tile = Tile(index=0, z=0, row=0, col=0, core=window, window=window)
    image = TileImage(image=blob_image(SIDE, SIDE, seed=9), valid=np.ones((SIDE, SIDE), bool), tile=tile)
    lean, stock = (
        load(ModelRequest(name="sam", weights=weights, settings={**SETTINGS, "network": way}, device="cpu"))
        for way in ("lean", "stock")
    )
    one, two = (model.predict([image])[0].instances for model in (lean, stock))
    assert len(one) > 3
    assert np.array_equal(one.runs, two.runs)
    np.testing.assert_allclose(one.score, two.score, rtol=0, atol=1e-6)
    assert lean.info.settings != stock.info.settings
    assert lean.info.memory_bytes < stock.info.memory_bytes
