"""Star distances: targets are what they say, exact ones decode to the true objects, and a network learns and uses them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage import draw
from support_scenes import panoptic_quality, random_scene
from support_threads import one_thread
from support_train import discs
from support_unet import save_network, toy_network

from seggeo.geometry import Window
from seggeo.models.unet import load
from seggeo.models.unet_arch import UNetShape, folded, without_rays
from seggeo.models.unet_decode import Decoding
from seggeo.models.unet_fields import OFFSET_UNIT, Fields, compute_fields, ray_directions
from seggeo.models.unet_stars import decode_stars
from seggeo.protocols import ModelRequest
from seggeo.tiling import TileGrid
from seggeo.train.sampler import Sample
from seggeo.train.unet_star_targets import star_targets
from seggeo.train.unet_targets import unet_targets
from seggeo.train.unet_task import UNetTask, unet_loss

TURNS = {
    "columns flipped": (lambda a: a[..., ::-1], [[1, 0], [0, -1]]),
    "rows flipped": (lambda a: a[..., ::-1, :], [[-1, 0], [0, 1]]),
    "axes exchanged": (lambda a: np.swapaxes(a, -2, -1), [[0, 1], [1, 0]]),
    "quarter turn": (lambda a: np.rot90(a, 1, (-2, -1)), [[0, -1], [1, 0]]),
}
"""Each with what it does to a direction (row, col)."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def known(labels):
    return np.ones(labels.shape, bool)


def seen_rays(rays, name):
    """Which ray of a turned image each ray of the image is."""
    turned = ray_directions(rays) @ np.array(TURNS[name][1]).T
    return (turned @ ray_directions(rays).T).argmax(axis=1)


def exact_fields(labels, rays=32):
    """What a perfect network says."""
    base = unet_targets(labels, np.zeros(labels.max(), np.int32), known(labels))
    distance = star_targets(labels, known(labels), rays).distance
    return Fields(
        chance=(labels > 0).astype(np.float32)[None], seed=base.seed, offset=base.offset * OFFSET_UNIT,
        rays=distance * OFFSET_UNIT,
    )  # fmt: skip


def convex_shapes():
    """Discs, turned ellipses and boxes; three boxes and four sectors touch."""
    labels = np.zeros((200, 240), np.int32)
    labels[draw.disk((30, 30), 20)], labels[draw.disk((30, 71), 20)] = 1, 2
    labels[draw.ellipse(40, 130, 14, 28, rotation=0.6)] = 3
    labels[80:120, 20:45], labels[80:120, 45:60], labels[120:135, 20:60] = 4, 5, 6
    labels[draw.polygon([90, 130, 150, 110], [90, 80, 110, 130])] = 7
    for number, (row, col) in enumerate([(0, 0), (0, 26), (26, 0), (26, 26)], start=8):
        labels[140 + row : 166 + row, 160 + col : 186 + col] = number
    labels[180:184, 20:28] = 12
    return labels


def overlaps(truth, found):
    """IoU of each true object with the found one that shares most with it."""
    best = []
    for number in range(1, truth.max() + 1):
        mine = truth == number
        other = found == np.bincount(found[mine]).argmax()
        best.append(np.count_nonzero(mine & other) / np.count_nonzero(mine | other))
    return np.array(best)


# Targets.


@pytest.mark.parametrize(("rays", "kind"), [(8, "discs"), (12, "voronoi"), (32, "snakes")])
def test_targets_are_those_of_one_ray_followed_at_a_time(rays, kind):
    labels = random_scene(kind, 4, (40, 46))
    valid = np.random.default_rng(0).random(labels.shape) > 0.01
    found = star_targets(labels, valid, rays)
    for ray in range(rays):
        angle = 2 * np.pi * ray / rays
        step = np.array([np.sin(angle), np.cos(angle)]) / max(abs(np.sin(angle)), abs(np.cos(angle)))
        for place in np.argwhere(valid & (labels > 0))[:: 7 + ray]:
            number = 1
            while True:
                row, col = np.floor(place + number * step + 0.5).astype(int)
                lost = not (0 <= row < 40 and 0 <= col < 46 and valid[row, col])
                if lost or labels[row, col] != labels[tuple(place)]:
                    break
                number += 1
            expected = (number - 0.5) * np.hypot(*step)
            assert found.distance[ray, *place] * OFFSET_UNIT == pytest.approx(expected, rel=1e-5)
            assert found.is_cut[ray, *place] == lost
    assert not found.distance[:, (labels == 0) | ~valid].any()


def test_rays_longer_than_a_byte_counts():
    labels = np.ones((5, 700), np.int32)
    labels[:, -3:] = 0
    found = star_targets(labels, known(labels), 8)

    np.testing.assert_allclose(found.distance[0, 2, :697] * OFFSET_UNIT, 696.5 - np.arange(697))
    assert not found.is_cut[0].any()
    np.testing.assert_allclose(found.distance[4, 2, :697] * OFFSET_UNIT, 0.5 + np.arange(697))
    assert found.is_cut[4, :, :697].all()


@pytest.mark.parametrize("radius", [5.0, 9.5, 16.0, 40.0])
def test_rays_of_a_disc_end_on_its_circle(radius):
    labels = np.zeros((91, 91), np.int32)
    labels[draw.disk((45, 45), radius)] = 1
    found = star_targets(labels, known(labels), 32).distance * OFFSET_UNIT
    for row, col in ((0, 0), (2, -3), (0, int(radius / 2))):
        along = ray_directions(32) @ (row, col)
        expected = np.sqrt(radius**2 - row**2 - col**2 + along**2) - along
        off = found[:, 45 + row, 45 + col] - expected
        assert np.abs(off).max() < 1.0
        assert abs(off.mean()) < 0.5


@pytest.mark.parametrize("name", TURNS)
def test_turned_labels_have_the_same_rays_along_turned_directions(name):
    labels = random_scene("voronoi", 1, (50, 64))
    plain, turned = (star_targets(x, known(x), 16) for x in (labels, np.ascontiguousarray(TURNS[name][0](labels))))

    assert np.array_equal(turned.distance[seen_rays(16, name)], TURNS[name][0](plain.distance))
    assert np.array_equal(turned.is_cut[seen_rays(16, name)], TURNS[name][0](plain.is_cut))


def test_what_a_crop_cuts_is_at_least_that_far():
    labels = random_scene("voronoi", 2, (90, 90))
    inner = np.s_[20:70, 25:75]
    whole, part = star_targets(labels, known(labels), 16), star_targets(labels[inner], known(labels[inner]), 16)
    distance, is_cut = whole.distance[:, *inner], part.is_cut
    ends = ~is_cut & ~whole.is_cut[:, *inner]

    assert 0.05 < is_cut.mean() < 0.5
    assert np.array_equal(part.distance[ends], distance[ends])
    assert (part.distance <= distance).all()


# Loss.


def batch_of(labels, rays, valid=None):
    image = np.random.default_rng(0).random((3, *labels.shape)).astype(np.float32)
    sample = Sample(
        image=image, labels=labels, classes=np.zeros(labels.max(), np.int32),
        valid=known(labels) if valid is None else valid,
    )  # fmt: skip
    return UNetTask(UNetShape(widths=(8, 8), rays=rays)).collate([sample])


def test_without_rays_the_loss_is_what_it_was():
    labels = discs(0, (64, 64), 8)
    fields = torch.randn((1, 13, 64, 64), generator=torch.Generator().manual_seed(0))
    without = unet_loss(fields[:, :5], batch_of(labels, 0), UNetShape())
    with_rays = unet_loss(fields, batch_of(labels, 8), UNetShape(rays=8))

    assert list(without) == ["classes", "dice", "seed", "offset"]
    assert list(with_rays) == [*without, "rays"]
    assert all(torch.equal(without[name], with_rays[name]) for name in without)


def test_the_loss_is_least_for_true_rays_and_lets_cut_ones_be_longer():
    labels = np.zeros((48, 48), np.int32)
    labels[10:40, 20:] = 1
    batch = batch_of(labels, 8)
    shape = UNetShape(rays=8)

    def loss(change):
        fields = torch.zeros((1, 13, 48, 48))
        fields[:, 5:] = batch.distance + change
        return float(unet_loss(fields, batch, shape)["rays"])

    assert batch.is_cut[0, 0, 10:40, 20:].all()
    assert loss(0) == 0
    assert loss(0.5 * batch.is_cut) == 0
    assert loss(-0.5 * batch.is_cut) > 0.05
    assert 0.05 < loss(0.5 * ~batch.is_cut) < loss(0.9 * ~batch.is_cut)


def test_rays_count_only_in_objects_that_are_known():
    labels = discs(1, (64, 64), 8)
    valid = known(labels)
    valid[:, 40:] = False
    batch = batch_of(labels, 8, valid)
    fields = torch.zeros((1, 13, 64, 64), requires_grad=True)
    unet_loss(fields, batch, UNetShape(rays=8))["rays"].backward()
    moved = (fields.grad[0, 5:] != 0).any(dim=0).numpy()

    assert moved[(labels > 0) & valid].mean() > 0.9
    assert not moved[(labels == 0) | ~valid].any()


# Objects.


@pytest.mark.parametrize(("rays", "least"), [(8, 0.85), (16, 0.9), (32, 0.98), (128, 0.98)])
def test_exact_fields_of_convex_shapes_decode_to_them(rays, least):
    labels = convex_shapes()
    found = decode_stars(exact_fields(labels, rays), Decoding()).labels

    assert found.max() == labels.max()
    assert overlaps(labels, found).min() > least


def test_true_rays_share_out_a_foreground_that_is_all_one():
    """Where the foreground says nothing of single objects, the stars do."""
    labels = random_scene("voronoi", 5, (200, 200))
    fields = exact_fields(labels)
    found = decode_stars(replace(fields, chance=np.ones_like(fields.chance)), Decoding()).labels

    assert panoptic_quality(labels, found).pq > 0.9


def test_noise_in_seeds_and_rays_costs_little():
    labels = convex_shapes()
    fields, rng = exact_fields(labels), np.random.default_rng(0)
    seed = np.clip(fields.seed + rng.normal(0, 0.1, fields.seed.shape), 0, 1).astype(np.float32)
    rays = np.clip(fields.rays * np.exp(rng.normal(0, 0.1, fields.rays.shape)), 0, 80).astype(np.float32)
    found = decode_stars(replace(fields, seed=seed, rays=rays), Decoding()).labels

    assert found.max() == labels.max()
    assert overlaps(labels, found).min() > 0.75


def test_a_bit_of_an_object_yields_to_a_better_star_and_a_neighbour_does_not():
    labels = np.zeros((60, 60), np.int32)
    fields = exact_fields(labels, 8)
    fields.chance[0, 5:55, 5:55] = 1
    for (row, col), strength, radius in (((30, 25), 0.9, 15), ((30, 42), 0.6, 8), ((30, 33), 0.7, 4), ((50, 30), 0.5, 4)):
        fields.seed[row, col], fields.rays[:, row, col] = strength, radius

    assert decode_stars(fields, Decoding(min_score=0)).labels.max() == 3
    assert decode_stars(fields, Decoding(min_score=0, nms=0.0)).labels.max() == 2
    assert decode_stars(fields, Decoding(min_score=0, peak=0.95)).labels.max() == 0


def test_a_moved_window_moves_the_objects():
    labels = random_scene("voronoi", 3, (260, 260))
    fields, rng = exact_fields(labels, 16), np.random.default_rng(1)
    noisy = replace(fields, rays=np.clip(fields.rays + rng.normal(0, 1.5, fields.rays.shape), 0, 40).astype(np.float32))
    part = Fields(
        chance=noisy.chance[:, 37:, 51:],
        seed=noisy.seed[37:, 51:],
        offset=noisy.offset[:, 37:, 51:],
        rays=noisy.rays[:, 37:, 51:],
    )
    whole, moved = decode_stars(noisy, Decoding()).labels, np.zeros_like(labels)
    moved[37:, 51:] = decode_stars(part, Decoding()).labels
    inner = np.s_[100:, 115:]
    pairs = np.unique(np.stack([whole[inner].ravel(), moved[inner].ravel()]), axis=1)

    assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1])) > 40
    assert np.array_equal(whole[inner] == 0, moved[inner] == 0)


def test_classes_and_scores_are_those_of_the_objects_pixels():
    labels = np.zeros((40, 80), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:60] = 1, 2
    chances = np.zeros((2, 40, 80), np.float32)
    chances[:, labels == 1], chances[:, labels == 2] = [[0.7], [0.2]], [[0.1], [0.6]]
    found = decode_stars(replace(exact_fields(labels), chance=chances), Decoding())

    assert [int(found.label[found.labels[20, col] - 1]) for col in (20, 50)] == [0, 1]
    np.testing.assert_allclose(sorted(found.score), [0.7, 0.9], atol=1e-6)


def test_nothing_gives_nothing():
    found = decode_stars(exact_fields(np.zeros((20, 30), np.int32)), Decoding())

    assert found.labels.shape == (20, 30)
    assert not found.labels.any()
    assert len(found.score) == len(found.label) == 0


def test_random_fields_take_no_longer_than_their_pixels():
    """A peak in every tenth pixel and stars over all of them: pairs would be ten thousand million."""
    rng = np.random.default_rng(0)
    chance, rays = np.ones((1, 500, 500), np.float32), rng.random((8, 500, 500), dtype=np.float32) * 80
    fields = Fields(chance=chance, seed=rng.random((500, 500), dtype=np.float32), offset=rays[:2], rays=rays)

    assert 20 < decode_stars(fields, Decoding(min_area=0)).labels.max() < 600


# Fields.


@pytest.fixture(scope="module")
def network():
    """Random weights that say rays of some px, none of them negative."""
    model = toy_network(rays=8)
    with torch.no_grad():
        model.head.weight *= 5
        model.head.bias[5 * 4 :] = 2
    return model


@pytest.mark.parametrize(("scale", "tile", "shape"), [("1", 170, (300, 380)), ("1/2", 210, (400, 640)), ("2", 100, (170, 300))])
def test_stitched_rays_are_those_of_the_whole_image(tmp_path, network, scale, tile, shape):
    path = save_network(network, tmp_path / "toy.safetensors")
    model = load(ModelRequest(name="unet", weights=path, settings={"scale": scale, "group": "stars"}))
    pixels, valid = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8), np.ones(shape, bool)
    whole = model.fields(pixels, valid).rays
    stitched, finer = np.full_like(whole, np.nan), max(1, int(Fraction(scale)))
    frame = Window(row=0, col=0, height=shape[0], width=shape[1])
    for each in TileGrid(depth=1, height=shape[0], width=shape[1], tile=tile, halo=8):
        extent = model.info.extent(each.window, within=frame)
        assert extent.width < frame.width
        part = model.fields(pixels[extent.slices()], valid[extent.slices()]).rays
        into, out_of = (
            tuple(slice(s.start * finer, s.stop * finer) for s in slices)
            for slices in (each.window.slices(), each.window.slices(extent))
        )
        stitched[:, *into] = part[:, *out_of]

    assert len(np.unique(whole)) > 1000
    assert np.array_equal(stitched, whole)


@pytest.mark.parametrize(("views", "name"), [(2, "columns flipped"), *((8, name) for name in TURNS)])
def test_views_see_the_same_rays(network, name, views):
    """Averaged over all eight views the rays turn with the image; over two, with the flip that tells these two apart."""
    pixels = np.random.default_rng(2).random((3, 96, 96), np.float32)
    turn = TURNS[name][0]
    with torch.inference_mode():
        plain, turned = (
            compute_fields(folded(network), torch.tensor(np.ascontiguousarray(x)), Fraction(1), views).rays
            for x in (pixels, turn(pixels))
        )
    assert np.ptp(plain, axis=0).max() > 1.0
    if views == 2:
        assert np.array_equal(turned[seen_rays(8, name)], turn(plain))
    else:
        np.testing.assert_allclose(turned[seen_rays(8, name)], turn(plain), atol=1e-4)


@pytest.mark.parametrize(("scale", "expected"), [("1", [4, 0, 80]), ("1/2", [8, 0, 160]), ("2", [4, 0, 80])])
def test_rays_are_pixels_of_the_fields_and_end_where_the_context_does(network, scale, expected):
    still = folded(network)
    still.head.weight.zero_()
    still.head.bias.zero_()
    still.head.bias[5 * 4 :].view(8, 4)[:] = torch.tensor([4.0, -1.0, 1000.0, 0, 0, 0, 0, 0])[:, None] / OFFSET_UNIT
    with torch.inference_mode():
        rays = compute_fields(still, torch.zeros(3, 96, 64), Fraction(scale), 1).rays

    np.testing.assert_allclose(rays[:3], np.broadcast_to(np.array(expected)[:, None, None], rays[:3].shape), rtol=1e-5)


def test_a_network_without_its_rays_says_the_rest(network):
    pixels = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))
    less = without_rays(folded(network))
    with torch.inference_mode():
        full, rest = (compute_fields(model, pixels, Fraction(1), 8) for model in (folded(network), less))

    assert rest.rays.shape == (0, 96, 96)
    assert folded(network).shape.rays == 8
    for name in ("chance", "seed", "offset"):
        np.testing.assert_allclose(getattr(rest, name), getattr(full, name), atol=1e-5)
