"""The steps of the merge, one by one."""

import numpy as np
from scipy import ndimage as ndi
from support_merge import grid_of
from support_scenes import random_scene

from seggeo.instances import Instances, concat
from seggeo.merge.group import components, group, touching
from seggeo.merge.match import join_pairs, match, no_pairs
from seggeo.merge.readings import FAR, MOST_IN_TILE, Lattice, join, make_readings, owned
from seggeo.merge.resolve import Tally, resolve, standing
from seggeo.tiling import PartGrid

WIDE = (100, 172)
"""Two tiles of 100 px side by side that share 28 px: windows 0-100 and 72-172, border of the cores at 86."""


def boxes(*bounds):
    masks = [np.ones((row_stop - row, col_stop - col), bool) for row, col, row_stop, col_stop in bounds]
    return Instances.from_masks(masks, origin=[b[:2] for b in bounds])


def lattice_of(shape=WIDE, tile=100, overlap=28):
    return Lattice.of(PartGrid(grid=grid_of(shape, tile, overlap)))


def pool_of(answers, lattice):
    """Readings of several tiles, in scene pixels."""
    tiles = np.repeat(list(answers), [len(i) for i in answers.values()]).astype(np.int64)
    return make_readings(concat(list(answers.values())), tiles, lattice)


def matched(answers, lattice=None, match_iou=0.3):
    lattice = lattice or lattice_of()
    pool = pool_of(answers, lattice)
    steps = [match(pool, lattice, step, match_iou) for step in range(len(lattice.parts))]
    pairs = no_pairs()
    for step in steps:
        pairs = join_pairs(pairs, step)
    return pool, pairs


def test_a_tile_speaks_for_what_has_a_pixel_in_or_just_beside_its_core():
    grid = grid_of(WIDE, 100, 28)
    left = boxes((0, 10, 9, 20), (0, 80, 9, 90), (0, 92, 9, 99), (0, 95, 9, 99))

    assert owned(left, grid[0], grid).tolist() == [True, True, True, False]  # 86 + 7 px of slack: columns below 93


def test_a_box_may_meet_the_core_where_its_mask_does_not():
    grid = grid_of(WIDE, 100, 28)
    corner = np.zeros((40, 60), bool)
    corner[:, 56:] = corner[36:] = True
    hooks = Instances.from_masks([corner[:, ::-1], corner], origin=[(0, 90), (0, 40)])
    beyond = Instances.from_masks([corner[:, 40:]], origin=[(0, 85)])

    assert owned(hooks, grid[0], grid).tolist() == [True, True]
    assert owned(beyond, grid[0], grid).tolist() == [True]
    gap = np.zeros((10, 20), bool)
    gap[:, 15:] = True
    gap[0, 14] = True
    assert not owned(Instances.from_masks([gap], origin=[(0, 80)]), grid[0], grid).any()


def test_depth_is_the_distance_to_the_nearest_inner_side():
    lattice = lattice_of()
    pool = pool_of(
        {0: boxes((0, 0, 10, 10), (0, 80, 10, 100), (0, 50, 10, 88)), 1: boxes((0, 72, 9, 90), (0, 75, 100, 172))}, lattice
    )

    assert pool.depth.tolist() == [90, 0, 12, 0, 3]
    alone = lattice_of((100, 100))
    assert pool_of({0: boxes((0, 0, 100, 100))}, alone).depth.tolist() == [FAR]


def test_home_visitor_and_alone():
    pool = pool_of({0: boxes((0, 10, 9, 20), (0, 60, 9, 80), (0, 80, 9, 90), (0, 87, 9, 91))}, lattice_of())

    assert pool.alone.tolist() == [True, False, False, False]
    assert pool.home.tolist() == [True, True, True, False]
    assert pool.visitor.tolist() == [False, False, False, True]


def test_keys_name_tile_and_place():
    pool = pool_of({0: boxes((0, 10, 9, 20), (0, 60, 9, 80)), 1: boxes((0, 100, 9, 110))}, lattice_of())

    assert pool.key.tolist() == [0, 1, MOST_IN_TILE]
    assert pool.tile.tolist() == [0, 0, 1]


def test_a_reading_closes_with_the_last_part_that_could_speak_of_it():
    lattice = lattice_of((172, 172))
    pool = pool_of({0: boxes((0, 0, 9, 9), (0, 80, 9, 90), (80, 0, 90, 9), (80, 80, 90, 90))}, lattice)

    assert len(lattice.parts) == 4
    assert pool.closes.tolist() == [0, 1, 2, 3]


def test_iou_counts_only_what_both_windows_saw():
    """Two pieces of a roof 150 px long share 28 of its columns, and all of them agree."""
    pool, pairs = matched({0: boxes((40, 10, 60, 100)), 1: boxes((40, 72, 60, 160))})

    assert pairs.linked.tolist() == [True]
    assert pairs.iou.tolist() == [1.0]
    assert pairs.shared.tolist() == [20 * 28]
    assert pairs.seen_a.tolist() == [20 * (28 - 2 * lattice_of().margin)]


def test_only_mutual_best_partners_are_linked():
    left = boxes((40, 10, 60, 100))
    right = boxes((40, 72, 54, 160), (54, 72, 60, 160))
    _, pairs = matched({0: left, 1: right})

    assert sorted(zip(pairs.iou.round(2), pairs.linked, strict=True)) == [(0.3, False), (0.7, True)]


def test_readings_below_the_threshold_are_strangers():
    left, right = boxes((40, 76, 60, 90)), boxes((52, 76, 72, 90))

    assert not matched({0: left, 1: right})[1].linked.any()
    assert matched({0: left, 1: right}, match_iou=0.2)[1].linked.all()


def test_one_run_across_the_border_links_the_pieces_of_a_bend():
    """A U whose bend lies in the right tile: two arms on the left, one U on the right; IoU is low, the runs agree."""
    arms = boxes((20, 10, 30, 100), (60, 10, 70, 100))
    bend = np.zeros((50, 88), bool)
    bend[:10] = bend[40:] = bend[:, 50:] = True
    whole = Instances.from_masks([bend], origin=[(20, 72)])
    _, pairs = matched({0: arms, 1: whole}, match_iou=0.6)

    assert pairs.linked.tolist() == [True, True]
    assert pairs.iou.max() < 0.6


def test_components_follow_links_alone():
    _, pairs = matched({0: boxes((40, 10, 60, 100), (70, 10, 80, 100)), 1: boxes((40, 72, 60, 160))})

    assert components(3, pairs).tolist() in ([0, 1, 0], [1, 0, 1])
    assert components(2, no_pairs()).tolist() == [0, 1]


def test_pieces_of_one_tile_join_only_when_cut_and_apart():
    lattice = lattice_of()
    bend = np.zeros((50, 88), bool)
    bend[:10] = bend[40:] = bend[:, 50:] = True
    u = Instances.from_masks([bend], origin=[(20, 72)])
    pool, pairs = matched({0: boxes((20, 10, 30, 100), (60, 10, 70, 100)), 1: u})
    assert len(set(group(pool, components(3, pairs), pairs, lattice.margin))) == 1

    touching_pair = boxes((20, 10, 40, 100), (40, 10, 70, 100))
    pool, pairs = matched({0: touching_pair, 1: Instances.from_masks([np.ones((50, 88), bool)], origin=[(20, 72)])})
    pairs.linked[:] = True
    assert len(set(group(pool, components(3, pairs), pairs, lattice.margin))) == 2


def test_touching_means_a_shared_or_a_neighbouring_pixel_in_one_tile():
    beside, below, corner, on, away = (5, 8, 6, 9), (8, 7, 9, 8), (8, 8, 9, 9), (6, 6, 7, 7), (5, 9, 6, 10)
    for other, expected in ((beside, True), (below, True), (corner, False), (on, True), (away, False)):
        for pair in (boxes((5, 5, 8, 8), other), boxes(other, (5, 5, 8, 8))):
            i, j = touching(pair, np.array([3, 3]))

            assert list(zip(i, j, strict=True)) == ([(0, 1), (1, 0)] if expected else [])
            assert len(touching(pair, np.array([3, 4]))[0]) == 0


def test_touching_finds_all_pairs_that_dilation_finds():
    labels = random_scene("voronoi", 3, (60, 60))
    labels[labels % 4 == 0] = 0
    masks = Instances.from_labels(labels)
    grown = [ndi.binary_dilation(labels == i) for i in np.unique(labels[labels > 0])]
    expected = {
        (i, j) for i, near in enumerate(grown) for j, i_d in enumerate(np.unique(labels[labels > 0]))
        if i != j and near[labels == i_d].any()
    }  # fmt: skip
    i, j = touching(masks, np.zeros(len(masks), np.int64))

    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected


def test_the_whole_reading_farthest_from_its_windows_sides_stands_unchanged():
    lattice = lattice_of()
    near, far = boxes((40, 76, 60, 92)), boxes((41, 82, 61, 96))
    pool = pool_of({0: near, 1: far}, lattice)
    objects = resolve(pool, np.zeros(2, np.int64), lattice)

    assert objects.instances.box.tolist() == far.box.tolist()
    assert objects.n_tiles.tolist() == [2]
    assert objects.cut.tolist() == [False]
    assert objects.n_readings.tolist() == [2]


def test_pieces_are_joined_each_inside_its_own_core():
    """The left piece is 2 px taller; beyond the border of the cores the right one decides."""
    lattice = lattice_of()
    pool = pool_of({0: boxes((39, 10, 61, 100)), 1: boxes((40, 72, 60, 160))}, lattice)
    objects = resolve(pool, np.zeros(2, np.int64), lattice)
    mask = np.zeros(WIDE, bool)
    mask[39:61, 10:86] = True
    mask[40:60, 86:160] = True
    row, col, row_stop, col_stop = objects.instances.box[0]

    assert objects.cut.tolist() == [True]
    assert np.array_equal(objects.instances.mask(0), mask[row:row_stop, col:col_stop])
    assert objects.instances.area.tolist() == [mask.sum()]


def test_a_joined_object_scores_the_mean_of_its_pieces_by_area():
    lattice = lattice_of()
    left = Instances.from_masks([np.ones((20, 90), bool)], origin=[(40, 10)], score=[0.9])
    right = Instances.from_masks([np.ones((20, 30), bool)], origin=[(40, 72)], score=[0.5])
    objects = resolve(pool_of({0: left, 1: right}, lattice), np.zeros(2, np.int64), lattice)

    assert np.allclose(objects.instances.score, (0.9 * 90 + 0.5 * 30) / 120)


def test_a_reading_nobody_disputes_is_an_object_as_it_is():
    pool = pool_of({0: boxes((0, 10, 9, 20), (0, 80, 9, 100))}, lattice_of())
    objects = standing(pool)

    assert np.array_equal(objects.instances.box, pool.instances.box)
    assert objects.cut.tolist() == [False, True]
    assert objects.n_tiles.tolist() == [1, 1]


def test_joining_pools_keeps_all_columns():
    lattice = lattice_of()
    a, b = pool_of({0: boxes((0, 10, 9, 20))}, lattice), pool_of({1: boxes((0, 100, 9, 120), (20, 100, 29, 120))}, lattice)
    both = join(a, b)

    assert both.key.tolist() == [*a.key.tolist(), *b.key.tolist()]
    assert both.take(np.array([True, False, False])).instances.box.tolist() == a.instances.box.tolist()


def test_tallies_add_up():
    total = Tally(kept=1, merged=2) + Tally(merged=3, duplicates=4, orphans=5, hidden=6)

    assert total == Tally(kept=1, merged=5, duplicates=4, orphans=5, hidden=6)
    assert total.inputs == 21
