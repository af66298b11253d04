"""Star distances: targets are what they say, exact ones decode to the true objects, and a network learns and uses them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage import draw
from support_scenes import panoptic_quality, random_scene
from support_train import FAST, data_folder, discs, lit, one_scene, one_thread
from support_unet import save_network, toy_network, whole_tile

from seggeo.errors import ConfigError, ModelError
from seggeo.geometry import Window
from seggeo.models.unet import load
from seggeo.models.unet_arch import UNetShape, folded, without_rays
from seggeo.models.unet_decode import Decoding
from seggeo.models.unet_fields import OFFSET_UNIT, Fields, compute_fields, ray_directions
from seggeo.models.unet_stars import decode_stars
from seggeo.protocols import ModelRequest, TileImage
from seggeo.tiling import TileGrid
from seggeo.train.examples import find_examples
from seggeo.train.fit import Progress
from seggeo.train.recipe import Recipe
from seggeo.train.sampler import Sample
from seggeo.train.session import Running, train
from seggeo.train.unet_star_targets import star_targets
from seggeo.train.unet_targets import unet_targets
from seggeo.train.unet_task import UNetTask, unet_loss, unet_task

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


# Training, and what comes of it.

STARS = {**FAST, "steps": 40, "epoch": 40, "crop": 64, "rate": 0.02, "set": {"widths": "8,8,16", "rays": 8}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of a short training, and the error of its rays in every batch."""
    folder = tmp_path_factory.mktemp("stars")
    examples = find_examples([data_folder(folder / "data")])
    events = list(train(examples, Recipe(**STARS), folder / "out", running=Running(device="cpu")))
    means = np.array([e.losses["rays"] for e in events if isinstance(e, Progress)])  # each is of all batches so far
    return folder / "out" / "model.safetensors", np.diff(means * np.arange(1, len(means) + 1), prepend=0)


def test_training_lowers_the_error_of_rays(trained):
    assert trained[1][-5:].mean() < 0.5 * trained[1][:3].mean()


def test_trained_weights_segment_by_stars(trained):
    labels = discs(9)
    image = np.moveaxis(lit(labels), 0, 2)
    model = load(ModelRequest(name="unet", weights=trained[0], settings={"scale": "1", "group": "stars"}))
    found = model.predict([whole_tile(image)])[0].instances
    painted = np.zeros(labels.shape, np.int32)
    for i in range(len(found)):
        row, col, row_stop, col_stop = found.box[i]
        painted[row:row_stop, col:col_stop][found.mask(i)] = i + 1

    assert panoptic_quality(labels, painted).pq > 0.7


def test_a_tile_finds_the_stars_of_the_whole_image(trained):
    model = load(ModelRequest(name="unet", weights=trained[0], settings={"scale": "1", "group": "stars"}))
    labels = discs(3, (420, 460), 300)
    image = np.moveaxis(lit(labels), 0, 2)
    window = Window(row=104, col=152, height=200, width=200)
    extent = model.info.extent(window, within=Window(row=0, col=0, height=420, width=460))
    tile = replace(whole_tile(image[window.slices()]).tile, core=window, window=window)
    asked = TileImage(image=image[extent.slices()], valid=np.ones(extent.shape, bool), tile=tile, extent=extent)
    part = model.predict([asked])[0].instances.shift(window.row, window.col, 0)
    whole = model.predict([whole_tile(image)])[0].instances
    inner = [
        (tuple(int(v) for v in box), whole.mask(i).tobytes())
        for i, box in enumerate(whole.box) if (box[:2] > (104, 152)).all() and (box[2:] < (304, 352)).all()
    ]  # fmt: skip
    found = {(tuple(int(v) for v in box), part.mask(i).tobytes()) for i, box in enumerate(part.box)}

    assert len(inner) > 25
    assert set(inner) <= found


def test_votes_of_weights_with_rays_are_those_of_weights_without(tmp_path, network):
    plain = without_rays(network)
    image = whole_tile(np.random.default_rng(3).integers(0, 256, (170, 190, 3)).astype(np.uint8))
    settings = {"scale": "1", "min_score": 0.0, "foreground": 0.3}
    found = [
        load(ModelRequest(name="unet", weights=save_network(model, tmp_path / f"{name}.safetensors"), settings=settings))
        .predict([image])[0].instances for name, model in (("with", network), ("without", plain))
    ]  # fmt: skip

    assert len(found[0]) > 3
    assert np.array_equal(found[0].runs, found[1].runs)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return [one_scene(tmp_path_factory.mktemp("scene"), discs(0))]


def test_weights_without_rays_take_them_on(tmp_path, scenes):
    start = toy_network(widths=(8, 8, 16))
    path = save_network(start, tmp_path / "plain.safetensors")
    recipe = Recipe(**{**FAST, "set": {"rays": 12}})
    task = unet_task(recipe, scenes, path)
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        old, new = start.eval()(image), task.network.eval()(image)

    assert task.shape == UNetShape(widths=(8, 8, 16), rays=12)
    assert task.card()["shape"]["rays"] == 12
    torch.testing.assert_close(new[:, :5], old, atol=1e-5, rtol=1e-5)
    assert new[:, 5:].std() > 0


def test_weights_with_rays_keep_them_and_take_no_others(tmp_path, scenes):
    path = save_network(toy_network(widths=(8, 8), rays=8), tmp_path / "stars.safetensors")
    wider = unet_task(Recipe(**{**FAST, "set": {"widths": "8,16"}}), scenes, path)

    assert wider.shape == UNetShape(widths=(8, 16), rays=8)
    for rays in (0, 16):
        with pytest.raises(ConfigError, match=f"8 star distances, and rays={rays}"):
            unet_task(Recipe(**{**FAST, "set": {"rays": rays}}), scenes, path)


@pytest.mark.parametrize("rays", [4, 10, 132, -8, "many", 8.5])
def test_rays_that_a_network_cannot_have_are_refused(scenes, rays):
    with pytest.raises(ConfigError, match="rays"):
        unet_task(Recipe(**{**FAST, "set": {"rays": rays}}), scenes, None)


def test_weights_that_name_such_rays_are_refused(tmp_path, network):
    other = toy_network(widths=(8, 8))
    path = save_network(other, tmp_path / "odd.safetensors")
    said = {**UNetShape(widths=(8, 8)).to_json(), "rays": 7}
    with pytest.raises(ConfigError, match="rays=7"):
        UNetShape.from_json(said)
    wrong = save_network(other, path, shape=UNetShape(widths=(8, 8), rays=8))
    with pytest.raises(ModelError):
        load(ModelRequest(name="unet", weights=wrong, settings={"scale": "1"}))


def test_stars_need_weights_with_rays(tmp_path):
    path = save_network(toy_network(), tmp_path / "plain.safetensors")
    with pytest.raises(ConfigError, match="no star distances") as refused:
        load(ModelRequest(name="unet", weights=path, settings={"scale": "1", "group": "stars"}))

    assert "rays=32" in refused.value.mend


@pytest.mark.parametrize(("name", "value"), [("group", "boxes"), ("peak", 1.0), ("peak", -0.1), ("nms", 1.5), ("nms", -1.0)])
def test_settings_that_mean_nothing_are_refused(tmp_path, network, name, value):
    path = save_network(network, tmp_path / "stars.safetensors")
    with pytest.raises(ConfigError, match=name):
        load(ModelRequest(name="unet", weights=path, settings={"scale": "1", name: value}))
