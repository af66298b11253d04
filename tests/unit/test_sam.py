"""Our masks are the stock generator's, and the lattice does not depend on the tiling."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from contracts.segmenters import SegmenterContract
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils.amg import build_point_grid
from support_sam import SETTINGS, SIDE, blob_image, make_sam, make_sam_weights, make_vit_b
from support_threads import one_thread

from seggeo.errors import ConfigError, ModelError, ResourceError
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.models.sam import SamSettings, lattice_points, load
from seggeo.models.sam_decode import LeanSam, StockSam
from seggeo.models.sam_masks import Thresholds, Work, find_masks, generate
from seggeo.models.sam_measure import mask_spans
from seggeo.models.sam_regions import clean_regions
from seggeo.models.sam_upsample import Upsampling
from seggeo.models.settings import parse_settings
from seggeo.protocols import ModelRequest, TileImage
from seggeo.tiling import Tile, TileGrid


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_sam_weights(tmp_path_factory.mktemp("sam") / "toy.safetensors")


def segmenter(weights, **settings):
    return load(ModelRequest(name="sam", weights=weights, settings={**SETTINGS, **settings}, device="cpu"))


def tile_of(image, tile, valid=None):
    piece = image[tile.window.slices()]
    seen = np.ones(piece.shape[:2], bool) if valid is None else valid[tile.window.slices()]
    return TileImage(image=piece, valid=seen, tile=tile)


def full(instances, shape):
    """Masks in the whole image as packed bytes, with their scores."""
    frames = []
    for (row, col, row_stop, col_stop), mask in instances:
        frame = np.zeros(shape, bool)
        frame[row:row_stop, col:col_stop] = mask
        frames.append(frame)
    return frames


def assert_same_masks(ours, stability, theirs, shape):
    """Every mask, predicted IoU and stability of one is in the other."""
    one = sorted(zip([f.tobytes() for f in full(ours, shape)], ours.score.tolist(), stability.tolist(), strict=True))
    two = sorted((np.ascontiguousarray(t["segmentation"]).tobytes(), t["predicted_iou"], t["stability_score"]) for t in theirs)
    assert len(one) == len(two)
    assert [m for m, _, _ in one] == [m for m, _, _ in two]
    np.testing.assert_allclose([s[1:] for s in one], [s[1:] for s in two], rtol=0, atol=1e-6)


SHAPES = [(128, 128), (128, 96), (77, 128), (64, 64), (200, 200), (150, 231), (300, 90)]


@lru_cache
def toy(seed):
    return make_sam(seed)


@pytest.mark.parametrize(
    ("seed", "shape"), [(i % 3, shape) for i, shape in enumerate(SHAPES)] + [(1, (128, 128)), (2, (128, 128))]
)
def test_masks_are_those_of_the_stock_generator(seed, shape):
    sam, image, grid = toy(seed), blob_image(*shape, seed=seed + 10), build_point_grid(9)
    thresholds = Thresholds(stability_score_thresh=0.7)
    stock = SamAutomaticMaskGenerator(sam, None, stability_score_thresh=0.7, point_grids=[grid])
    theirs = stock.generate(image)

    found = find_masks(LeanSam(sam), image, grid * [shape[1], shape[0]], thresholds, Work())
    exact = find_masks(StockSam(sam), image, grid * [shape[1], shape[0]], thresholds, Work())

    assert len(theirs) >= 2
    assert_same_masks(found.instances, found.stability, theirs, shape)
    assert_same_masks(exact.instances, exact.stability, theirs, shape)
    assert np.array_equal(generate(sam, image, grid, thresholds).runs, found.instances.runs)


@pytest.mark.parametrize(
    "values",
    [
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.5},
        {"pred_iou_thresh": 0.93, "stability_score_offset": 3.0, "stability_score_thresh": 0.6},
        {"stability_score_thresh": 0.6, "box_nms_thresh": 0.95},
        {"stability_score_thresh": 0.6, "box_nms_thresh": 0.1},
    ],
)
def test_every_threshold_means_what_it_means_to_the_stock_generator(values):
    sam, image, grid = toy(0), blob_image(SIDE, SIDE, seed=4), build_point_grid(12)
    theirs = SamAutomaticMaskGenerator(sam, None, point_grids=[grid], **values).generate(image)

    found = find_masks(LeanSam(sam), image, grid * SIDE, Thresholds(**values), Work(points_per_batch=64))

    assert len(theirs) >= 3
    assert_same_masks(found.instances, found.stability, theirs, (SIDE, SIDE))


@pytest.mark.parametrize("min_area", [5, 40, 400])
def test_small_regions_go_as_in_the_stock_generator(min_area):
    pytest.importorskip("cv2", reason="the stock clean-up needs OpenCV")
    sam, image, grid = toy(1), blob_image(SIDE, SIDE, seed=5), build_point_grid(12)
    values = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.3}
    theirs = SamAutomaticMaskGenerator(sam, None, point_grids=[grid], min_mask_region_area=min_area, **values).generate(image)

    ours = clean_regions(generate(sam, image, grid, Thresholds(**values)), min_area, 0.7, image.shape[:2])

    one = sorted(frame.tobytes() for frame in full(ours, (SIDE, SIDE)))
    assert one == sorted(np.ascontiguousarray(t["segmentation"]).tobytes() for t in theirs)


@pytest.mark.parametrize("seed", range(6))
def test_cleaned_regions_are_those_of_the_whole_frame(seed):
    amg = pytest.importorskip("segment_anything.utils.amg")
    pytest.importorskip("cv2", reason="the stock clean-up needs OpenCV")
    rng = np.random.default_rng(seed)
    level = rng.uniform(-0.1, 0.1)
    mask = ndimage.gaussian_filter(rng.standard_normal((60, 50)), 1.2) > level
    wanted, _ = amg.remove_small_regions(mask, 30, "holes")
    wanted, _ = amg.remove_small_regions(wanted, 30, "islands")

    cleaned = clean_regions(Instances.from_masks([mask]), 30, 0.7, mask.shape)

    assert np.array_equal(full(cleaned, mask.shape)[0], wanted)


def test_an_image_between_two_prompts_is_told(weights, caplog):
    tile = TileGrid(height=12, width=12, tile=16, halo=0)[0]
    (found,) = segmenter(weights, points_per_side=32).predict([tile_of(np.full((12, 12, 3), 90, np.uint8), tile)])
    assert "points lie 32 px apart" in caplog.text
    assert len(found.instances) == 0


@pytest.mark.parametrize("seed", range(40))
def test_small_holes_at_the_frames_edge_are_filled_whole(seed):
    """Beside a plain clean-up of the frame: background that the mask cuts off at the edge is a hole like any other."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    noise = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0.3, 3))
    mask = noise > np.quantile(noise, rng.uniform(0, 0.6))
    mask[: rng.integers(0, 4), :] = False
    mask[:, : rng.integers(0, 4)] = False
    if not mask.any():
        mask[-1, -1] = True
    min_area = int(rng.choice([5, 60, 300]))

    cleaned = clean_regions(Instances.from_masks([mask]), min_area, 0.7, shape)

    wanted = mask | (_region_sizes(~mask) < min_area)
    sizes = np.where(wanted, _region_sizes(wanted), 0)
    wanted &= sizes >= min(min_area, sizes.max())
    assert np.array_equal(full(cleaned, shape)[0], wanted)


def _region_sizes(mask):
    """At each pixel the size of its 8-connected region; more than any outside the mask."""
    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())
    sizes[0] = mask.size + 10**6
    return sizes[regions]


def test_the_batch_of_points_changes_nothing():
    sam, image, grid = toy(0), blob_image(SIDE, SIDE, seed=6), build_point_grid(8)
    thresholds = Thresholds(stability_score_thresh=0.7)
    together = find_masks(LeanSam(sam), image, grid * SIDE, thresholds, Work(points_per_batch=64))
    apart = find_masks(LeanSam(sam), image, grid * SIDE, thresholds, Work(points_per_batch=7))
    assert np.array_equal(together.instances.runs, apart.instances.runs)
    assert np.array_equal(together.point, apart.point)


@pytest.mark.parametrize("most", [20, 5, 1])
def test_a_batch_that_does_not_fit_is_made_smaller(most):
    sam, image, grid = make_sam(0), blob_image(SIDE, SIDE, seed=6), build_point_grid(6)
    thresholds = Thresholds(stability_score_thresh=0.7)
    wanted = find_masks(LeanSam(sam), image, grid * SIDE, thresholds, Work())

    def refuse(module, inputs, outputs):
        if len(outputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    sam.prompt_encoder.register_forward_hook(refuse)
    found = find_masks(LeanSam(sam), image, grid * SIDE, thresholds, Work())
    assert np.array_equal(found.instances.runs, wanted.instances.runs)
    assert np.array_equal(found.point, wanted.point)
    sam.prompt_encoder.register_forward_hook(lambda *_: refuse(None, None, [range(most + 1)]))
    with pytest.raises(ResourceError):
        find_masks(LeanSam(sam), image, grid * SIDE, thresholds, Work())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_region_has_the_values_of_the_whole_frame(shape):
    sam, rng = toy(0), np.random.default_rng(1)
    view = Upsampling.of(*shape, sam)
    for _ in range(5):
        logits = torch.full((64, 64), -9.0)
        row, col = rng.integers(0, 50, 2)
        height, width = rng.integers(1, 14, 2)
        logits[row : row + height, col : col + width] = torch.from_numpy(rng.normal(0, 3, (height, width)).astype(np.float32))
        whole = sam.postprocess_masks(logits[None, None], view.scaled, shape)[0, 0].numpy()

        values, top, left = view.region(logits, (row, col, row + height, col + width))

        place = slice(top, top + values.shape[0]), slice(left, left + values.shape[1])
        np.testing.assert_allclose(values, whole[place], rtol=0, atol=2e-5)
        outside = whole.copy()
        outside[place] = -9
        assert (outside <= -8.999).all(), "nothing of the mask lies outside"


def test_spans_of_a_mask_are_its_pixels():
    mask = np.random.default_rng(0).random((17, 23)) > 0.4
    spans = mask_spans(mask, (5, 7))
    drawn = np.zeros((30, 40), bool)
    for row, start, stop in zip(spans.row, spans.start, spans.stop, strict=True):
        drawn[row, start:stop] = True
    assert np.array_equal(drawn[5:22, 7:30], mask)
    assert drawn.sum() == mask.sum() == (spans.stop - spans.start).sum()


@pytest.mark.parametrize("step", [16.0, 12.5, 1024 / 24, 3.0])
def test_every_lattice_point_is_prompted_by_one_tile(step):
    image = np.zeros((301, 263, 3), np.uint8)
    seen = []
    for tile in TileGrid(height=301, width=263, tile=96, halo=11):
        points = lattice_points(tile_of(image, tile), step)
        seen.append(points + [tile.window.col, tile.window.row])
    points = np.concatenate(seen)
    rows = [(k + 0.5) * step for k in range(301) if (k + 0.5) * step < 301]
    cols = [(k + 0.5) * step for k in range(263) if (k + 0.5) * step < 263]
    assert len(points) == len(rows) * len(cols)
    np.testing.assert_allclose(np.unique(points[:, 0].round(9)), cols)
    np.testing.assert_allclose(np.unique(points[:, 1].round(9)), rows)


def test_one_tile_of_1024_px_has_the_stock_grid():
    tile = Tile(
        index=0, z=0, row=0, col=0, core=Window.from_bounds(0, 0, 1024, 1024), window=Window.from_bounds(0, 0, 1024, 1024)
    )
    points = lattice_points(tile_of(np.zeros((1024, 1024, 3), np.uint8), tile), SamSettings().point_step)
    assert np.array_equal(points, build_point_grid(32) * 1024)


def test_points_without_data_are_not_prompted():
    image, valid = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    valid[:, :20] = True
    tile = TileGrid(height=64, width=64, tile=64, halo=2)[0]
    assert lattice_points(tile_of(image, tile, valid), 16.0)[:, 0].tolist() == [8.0] * 4


def test_a_tile_without_points_does_not_run_the_network(weights):
    model = segmenter(weights)
    runs = []
    model.network.encoder.register_forward_hook(lambda *_: runs.append(1))
    tile = TileGrid(height=SIDE, width=SIDE, tile=SIDE, halo=2)[0]
    image = blob_image(SIDE, SIDE)
    assert len(model.predict([tile_of(image, tile, np.zeros((SIDE, SIDE), bool))])[0].instances) == 0
    assert runs == []
    assert len(model.predict([tile_of(image, tile)])[0].instances) > 0
    assert runs == [1]


def test_the_toy_finds_the_blobs(weights):
    image = blob_image(SIDE, SIDE, seed=7)
    tile = TileGrid(height=SIDE, width=SIDE, tile=SIDE, halo=2)[0]
    found = segmenter(weights, nested="flat").predict([tile_of(image, tile)])[0].instances
    covered = np.logical_or.reduce(full(found, (SIDE, SIDE)))
    bright = image[..., 0] > 200
    assert (covered & bright).sum() > 0.8 * bright.sum()
    assert image[covered][:, 0].mean() > 150


def test_info_tells_the_pipeline_what_it_needs(weights):
    info = segmenter(weights, points_per_batch=3).info
    assert (info.name, info.tile, info.overlap, info.channels, info.native, info.exclusive) == (
        "sam",
        SIDE,
        SIDE // 4,
        3,
        False,
        False,
    )
    assert len(info.weights_sha256) == 64
    assert info.memory_bytes > 1e6
    assert info.settings == segmenter(weights).info.settings, "the batch changes no prediction"
    assert segmenter(weights, nested="flat").info.exclusive
    assert parse_settings(SamSettings, {k: v for k, v in info.settings.items() if k != "autocast"}, model="sam")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"points_per_sid": 3}, "points_per_side=32"),
        ({"pred_iou_thresh": 1.5}, "between 0 and 1"),
        ({"points_per_side": 0}, "at least 1"),
        ({"points_per_side": 5000}, "at most"),
        ({"nested": "some"}, "all, whole, part, flat"),
        ({"stability_score_offset": -1.0}, "at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(weights, values, word):
    with pytest.raises(ConfigError, match=word):
        segmenter(weights, **values)


def test_weights_are_needed():
    with pytest.raises(ModelError, match="models pull sam_vit_b"):
        load(ModelRequest(name="sam"))


def test_grey_or_16_bit_images_are_refused():
    for image in (np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32, 3), np.uint16)):
        with pytest.raises(ConfigError, match="RGB"):
            find_masks(LeanSam(toy(0)), image, np.zeros((1, 2)), Thresholds(), Work())


class TestContract(SegmenterContract):
    @pytest.fixture(params=[{}, {"nested": "flat", "min_mask_region_area": 20}])
    def segmenter(self, request, weights):
        return segmenter(weights, stability_score_thresh=0.5, **request.param)


@pytest.mark.slow
def test_masks_are_those_of_the_stock_generator_at_full_size():
    """ViT-B at 1024 px: with its own modules to the bit, in the rearranged arithmetic up to rounding."""
    sam, shape = make_vit_b(), (1024, 1024)
    image = blob_image(1024, 1024, seed=1, step=128, fill=1.5)
    grid = build_point_grid(8)
    values = {"stability_score_thresh": 0.8}
    theirs = SamAutomaticMaskGenerator(sam, None, point_grids=[grid], **values).generate(image)

    exact, lean = (find_masks(way(sam), image, grid * 1024, Thresholds(**values), Work()) for way in (StockSam, LeanSam))

    assert len(theirs) >= 5
    assert_same_masks(exact.instances, exact.stability, theirs, shape)
    assert np.array_equal(lean.point, exact.point)
    np.testing.assert_allclose(lean.instances.score, exact.instances.score, rtol=0, atol=1e-6)
    pairs = zip(full(lean.instances, shape), full(exact.instances, shape), strict=True)
    assert all((one & two).sum() >= 0.999 * (one | two).sum() for one, two in pairs)
