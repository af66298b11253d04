"""What merging promises whatever the image, the tiles and the objects: each test is one law."""

from dataclasses import replace

import numpy as np
import pytest
from support_merge import SizedParts, grid_of, jittered, laminar, mask_set, merge_scene
from support_scenes import KINDS, nested, oracle, oracle_masks, paint, panoptic_quality, random_scene, same_partition

from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.merge.sweep import sweep
from seggeo.tiling import PartGrid

ALL_KINDS = (*KINDS, "nested")


def random_case(kind, seed):
    """Truth, a perfect model of it and a random grid: tile 20 to 300 px, overlap 2 px to half a tile."""
    rng = np.random.default_rng([seed, ALL_KINDS.index(kind)])
    shape = (int(rng.integers(60, 300)), int(rng.integers(60, 300)))
    tile = int(rng.integers(20, 301))
    parts = PartGrid(grid=grid_of(shape, tile, 2 * int(rng.integers(1, tile // 4 + 1))))
    if kind == "nested":
        truth = laminar(nested(seed, shape, cells=int(rng.integers(1, 4))))
        truth = replace(truth, label=truth.label * (seed % 2))
        return truth, lambda window: oracle_masks(truth, window), parts
    labels = random_scene(kind, seed, shape)
    return Instances.from_labels(labels), lambda window: oracle(labels, window), parts


def assert_tiled_equals_untiled(kind, seed):
    truth, predict, parts = random_case(kind, seed)
    for exclusive in (False,) if kind == "nested" else (True, False):
        merged = merge_scene(predict, parts, exclusive=exclusive, shuffle=seed)

        assert len(merged.instances) == len(truth), (kind, seed, exclusive, parts)
        assert mask_set(merged.instances) == mask_set(truth), (kind, seed, exclusive, parts)
        assert merged.tally.inputs == merged.n_readings
        assert not exclusive or merged.tally.hidden == 0


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_objects_found_tile_by_tile_are_the_objects_of_the_whole_image(kind):
    for seed in range(10):
        assert_tiled_equals_untiled(kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_five_hundred_random_scenes_are_pixel_exact(kind):
    for seed in range(1000, 1084):
        assert_tiled_equals_untiled(kind, seed)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", ["discs", "voronoi", "snakes"])
def test_the_size_of_parts_does_not_change_the_objects(kind, exclusive):
    """Noise makes every decision of the merge matter; only the order in which objects leave may differ."""
    labels = random_scene(kind, 5, (256, 230))
    grid = grid_of(labels.shape, 48, 20)
    predict = jittered(labels, seed=3, missed=0.05, exclusive=exclusive)
    first = merge_scene(predict, SizedParts(grid, 1), exclusive=exclusive)

    assert len(first.instances) > 20
    for side in (2, 3, 8):
        other = merge_scene(predict, SizedParts(grid, side), exclusive=exclusive)
        assert mask_set(other.instances) == mask_set(first.instances)
        assert len(other.instances) == len(first.instances)
        assert other.tally == first.tally


@pytest.mark.parametrize("kind", KINDS)
def test_merging_commutes_with_flips_and_quarter_turns(kind):
    labels = random_scene(kind, 11, (200, 200))
    turns = (lambda a: a, np.fliplr, np.flipud, np.rot90, lambda a: np.rot90(a, 2), np.transpose)
    for turn in turns:
        turned = np.ascontiguousarray(turn(labels))
        merged = merge_scene(lambda window, image=turned: oracle(image, window), PartGrid(grid=grid_of(turned.shape, 64, 14)))
        assert same_partition(paint(merged.instances, turned.shape), turned)


def test_one_tile_is_handed_through():
    labels = random_scene("voronoi", 2, (90, 120))
    predict = jittered(labels, seed=1, exclusive=False)
    merged = merge_scene(predict, PartGrid(grid=grid_of(labels.shape, 256, 64)), exclusive=False)

    assert mask_set(merged.instances) == mask_set(predict(Window(row=0, col=0, height=90, width=120)))
    assert set(merged.n_tiles) == {1}
    assert not merged.cut.any()
    assert merged.tally.kept == merged.n_readings


def test_a_part_that_never_came_is_a_part_without_objects():
    labels = random_scene("discs", 7, (256, 256))
    labels[128:, 128:] = 0
    parts = SizedParts(grid_of(labels.shape, 64, 16), 1)
    grid = parts.grid
    whole = merge_scene(lambda window: oracle(labels, window), parts)
    reported = [
        (part, oracle(labels, tile.window).shift(tile.window.row, tile.window.col), tile.index)
        for part in range(len(parts)) for tile in parts.tiles(part) if labels[tile.window.slices()].any()
    ]  # fmt: skip
    some = list(sweep(((part, i, np.full(len(i), index)) for part, i, index in reported), parts))

    assert len(reported) < len(grid)
    assert (
        set().union(*(mask_set(m.instances) for m in some))
        == mask_set(whole.instances)
        == mask_set(Instances.from_labels(labels))
    )


def boxes(*bounds, label=None, score=None):
    """Filled boxes of scene pixels as instances."""
    masks = [np.ones((row_stop - row, col_stop - col), bool) for row, col, row_stop, col_stop in bounds]
    return Instances.from_masks(masks, origin=[b[:2] for b in bounds], label=label, score=score)


def told(answers, shape, tile, overlap, *, exclusive=True):
    """Merge what each tile says, in scene pixels; tiles without an answer see nothing."""
    grid = grid_of(shape, tile, overlap)
    by_window = {grid[index].window: instances for index, instances in answers.items()}

    def predict(window):
        said = by_window.get(window, Instances.empty())
        return said.shift(-window.row, -window.col)

    return merge_scene(predict, PartGrid(grid=grid), exclusive=exclusive)


@pytest.mark.parametrize("exclusive", [True, False])
def test_whole_objects_one_tile_told_apart_stay_apart_when_a_neighbour_fuses_them(exclusive):
    pair = boxes((40, 78, 50, 90), (50, 78, 60, 90), score=[0.9, 0.8])
    fused = boxes((40, 78, 60, 90), score=[0.7])
    merged = told({0: pair, 1: fused}, (100, 172), 100, 28, exclusive=exclusive)

    assert mask_set(pair) <= mask_set(merged.instances)


@pytest.mark.parametrize("exclusive", [True, False])
def test_touching_cut_objects_one_tile_told_apart_stay_apart_when_a_neighbour_fuses_them(exclusive):
    pair = boxes((40, 60, 50, 100), (50, 60, 60, 100))
    fused = boxes((40, 72, 60, 130))
    merged = told({0: pair, 1: fused}, (100, 172), 100, 28, exclusive=exclusive)
    painted = [paint(merged.instances.take(np.array([i])), (100, 172)) for i in range(len(merged.instances))]

    assert not any(p[45, 65] and p[55, 65] for p in painted)
    assert any(p[45, 65] for p in painted)
    assert any(p[55, 65] for p in painted)


def test_a_chain_of_other_tiles_does_not_join_what_one_tile_told_apart():
    """Four tiles around a corner: the three others see one thing where the first sees two, whole."""
    pair = boxes((38, 38, 48, 60), (48, 38, 58, 60))
    one = boxes((38, 38, 58, 60))
    merged = told({0: pair, 1: one, 2: one, 3: one}, (100, 100), 64, 28)

    assert mask_set(pair) <= mask_set(merged.instances)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_six_touching_nuclei_on_a_seam_stay_six(seed, exclusive):
    """Two pixels of noise on every outline, drawn anew by each tile."""
    labels = np.zeros((160, 240), np.int32)
    for k in range(6):
        row, col = 60 + 22 * (k % 2), 84 + 24 * (k // 2)
        labels[row : row + 22, col : col + 24] = k + 1
    predict = jittered(labels, seed=seed, exclusive=exclusive)
    merged = merge_scene(predict, PartGrid(grid=grid_of(labels.shape, 140, 40)), exclusive=exclusive)

    assert len(merged.instances) == 6
    assert panoptic_quality(labels, paint(merged.instances, labels.shape)).matched == 6


@pytest.mark.parametrize("kind", ["discs", "voronoi", "snakes", "combs"])
def test_objects_of_an_exclusive_model_never_share_a_pixel(kind):
    for seed in range(4):
        labels = random_scene(kind, seed, (220, 200))
        merged = merge_scene(jittered(labels, seed=seed), PartGrid(grid=grid_of(labels.shape, 56, 24)))
        claims = np.zeros(labels.shape, np.int32)
        for box, mask in merged.instances:
            claims[box[0] : box[2], box[1] : box[3]] += mask

        assert claims.max() == 1
        assert (merged.instances.area > 0).all()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_reading_is_accounted_for_once(kind, exclusive):
    for seed in range(3):
        labels = random_scene(kind, seed, (220, 200))
        predict = jittered(labels, seed=seed, missed=0.1, exclusive=exclusive)
        merged = merge_scene(predict, PartGrid(grid=grid_of(labels.shape, 40, 16)), exclusive=exclusive)
        tally = merged.tally

        assert tally.kept + tally.merged + tally.duplicates + tally.orphans + tally.hidden == tally.inputs == merged.n_readings
        assert tally.hidden == 0 or exclusive


@pytest.mark.parametrize("seed", range(6))
def test_part_and_whole_across_the_same_seams_stay_two_objects(seed):
    """Both fill whole windows in the middle, where no pixel tells one from the other."""
    masks = np.zeros((2, 64, 200), bool)
    masks[0, :, 10:190] = True
    masks[1, :, 30:170] = True
    truth = Instances.from_masks(masks)
    merged = merge_scene(
        lambda window: oracle_masks(truth, window), PartGrid(grid=grid_of((64, 200), 64, 16)), exclusive=False, shuffle=seed
    )

    assert mask_set(merged.instances) == mask_set(truth)


def test_noisy_part_and_whole_stay_two_objects():
    """As a SAM sees a roof and the dormer on it: every tile draws both anew."""
    for seed in range(20):
        rng = np.random.default_rng(seed)

        def predict(window, rng=rng):
            whole, part = rng.integers(-2, 3, 8).reshape(2, 4)
            drawn = boxes(
                (30 + whole[0], 40 + whole[1], 90 + whole[2], 160 + whole[3]),
                (45 + part[0], 70 + part[1], 75 + part[2], 130 + part[3]),
            )
            return drawn.clip(*window.bounds)[0].shift(-window.row, -window.col)

        merged = merge_scene(predict, PartGrid(grid=grid_of((120, 200), 100, 28)), exclusive=False)
        assert len(merged.instances) == 2


def test_readings_of_different_classes_are_never_one_object():
    roof = (40, 60, 60, 140)
    left, right = boxes((40, 60, 60, 100), label=[0]), boxes((40, 72, 60, 140), label=[1])
    apart = told({0: left, 1: right}, (100, 172), 100, 28, exclusive=False)
    together = told({0: left, 1: replace(right, label=left.label)}, (100, 172), 100, 28, exclusive=False)

    assert sorted(apart.instances.label) == [0, 1]
    assert mask_set(together.instances) == mask_set(boxes(roof))


@pytest.mark.parametrize("kind", ["voronoi", "spirals", "combs"])
def test_objects_keep_their_class_across_seams(kind):
    labels = random_scene(kind, 4, (200, 180))
    truth = Instances.from_labels(labels)
    classes = np.random.default_rng(4).integers(0, 3, len(truth)).astype(np.int32)

    def predict(window):
        found = oracle(labels, window)
        first = np.searchsorted(found.spans().owner, np.arange(len(found)))
        spans = found.spans()
        ids = labels[window.slices()][spans.row[first], spans.start[first]]
        return replace(found, label=classes[ids - 1])

    merged = merge_scene(predict, PartGrid(grid=grid_of(labels.shape, 60, 18)))

    assert mask_set(merged.instances) == mask_set(replace(truth, label=classes))


def test_cut_and_edge_say_what_tiles_saw():
    roofs = boxes((0, 10, 20, 30), (40, 20, 60, 150), (70, 85, 80, 96))
    labels = paint(roofs, (100, 172))
    merged = merge_scene(lambda window: oracle(labels, window), PartGrid(grid=grid_of(labels.shape, 100, 28)))

    assert mask_set(merged.instances) == mask_set(roofs)
    assert merged.touches_edge.tolist() == [True, False, False]
    assert merged.cut.tolist() == [False, True, False]
    assert merged.n_tiles.tolist() == [1, 2, 2]
