"""Validation splits: groups stay whole, areas never share a pixel, the same seed gives the same split."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_annotations import blobs
from support_io import noise, write

from seggeo.errors import ConfigError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances
from seggeo.train import validation_split
from seggeo.train.examples import find_examples
from seggeo.train.scene_opening import open_scenes
from seggeo.train.validation_split import split_scenes, without


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A scene of 300 x 400 px."""
    folder = tmp_path_factory.mktemp("scene")
    write(folder / "a.tif", noise((3, 300, 400)))
    write(folder / "a_label.tif", blobs(300, 400, seed=1)[None])
    return open_scenes(find_examples([folder]))[0]


def many(opened, count, **fields):
    return [replace(opened, name=f"{i}", group=f"g{i // 2}", **fields) for i in range(count)]


def whole(side, seed, opened, count=400):
    """A huge scene without pixels: small objects, denser to the right."""
    rng = np.random.default_rng(seed)
    at = (rng.uniform(0, 1, (count, 2)) ** [1, 0.5] * (side - 10)).astype(int)
    objects = Instances.from_masks([np.ones((5, 5), bool)] * count, origin=at)
    frame = Frame(height=side, width=side)
    return replace(opened, frame=frame, objects=objects, ids=np.arange(count), cut=np.zeros(count, bool), areas=(frame.window,))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_every_kind_is_judged(opened, seed):
    scenes = many(opened, 40, kind="blue") + [replace(s, kind="red", group="r" + s.group) for s in many(opened, 20)]

    split = split_scenes(scenes, seed=seed)
    again = split_scenes(scenes, seed=seed)

    assert split.rule == "groups"
    assert not {s.group for s in split.train} & {s.group for s in split.val}
    assert sorted(s.group for s in split.train + split.val) == sorted(s.group for s in scenes)
    for kind, count in (("blue", 40), ("red", 20)):
        assert sum(s.kind == kind for s in split.val) / count == pytest.approx(0.15, abs=0.06)
    assert [s.name for s in split.val] == [s.name for s in again.val]
    assert {s.split for s in split.val} == {"val"}


def test_other_seeds_draw_other_groups(opened):
    scenes = many(opened, 40)

    assert len({tuple(s.name for s in split_scenes(scenes, seed=seed).val) for seed in range(6)}) > 3


def test_a_split_in_the_data_is_kept_and_the_rest_is_learnt_from(opened):
    scenes = [replace(opened, name=n, split=n) for n in ("train", "val", "")]

    split = split_scenes(scenes, seed=0)

    assert split.rule == "given"
    assert [s.name for s in split.train] == ["train", ""]
    assert [s.name for s in split.val] == ["val"]
    with pytest.raises(ConfigError, match="all images are for validation"):
        split_scenes(scenes[1:2], seed=0)
    empty = replace(opened, objects=Instances.empty(), split="val")
    with pytest.raises(ConfigError, match="hold no objects"):
        split_scenes([opened, empty], seed=0)


def test_one_scene_is_divided_with_a_guard_band(opened):
    split = split_scenes([opened], seed=0, guard=20)
    (train,), (val,) = split.train, split.val

    seen = [s.crop(s.frame.window) for s in (train, val)]

    assert split.rule == "areas"
    assert not (seen[0].valid & seen[1].valid).any()
    assert (~seen[0].valid & ~seen[1].valid).sum() == 20 * 300
    assert not seen[0].image[~seen[0].valid].any()
    assert val.area / opened.area == pytest.approx(128 / 400)
    assert len(val.objects) + len(train.objects) >= 0.9 * len(opened.objects)
    grown = val.areas[0].grow(20, within=val.frame.window)
    assert all(grown.intersect(area) is None for area in train.areas)


@pytest.mark.parametrize("seed", range(3))
def test_a_huge_scene_is_judged_in_dense_and_in_sparse_places(opened, seed):
    scene = whole(12_000, seed, opened)

    split = split_scenes([scene], seed=seed)
    (train,), (val,) = split.train, split.val

    assert len(val.areas) > 2
    assert 0.05 < len(val.objects) / len(scene.objects) < 0.3
    for held in val.areas:
        near = held.grow(validation_split.GUARD_PX, within=scene.frame.window)
        assert all(near.intersect(area) is None for area in train.areas)
    assert not set(train.ids[~train.cut]) & set(val.ids)


def test_too_little_to_divide_is_refused_and_two_small_images_are_shared_out(opened):
    small = opened.within([Window(row=0, col=0, height=90, width=90)])
    frame = Frame(height=90, width=90)
    small = replace(small, frame=frame)

    with pytest.raises(ConfigError, match="too little data"):
        split_scenes([small], seed=0)
    split = split_scenes([small, replace(small, name="b", group="b")], seed=0)
    assert (len(split.train), len(split.val)) == (1, 1)


boxes = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))


@settings(deadline=None)  # other work on the machine is not the code's slowness
@given(holes=st.lists(boxes, max_size=8))
def test_what_is_left_without_holes_is_covered_once(holes):
    whole = Window(row=0, col=0, height=35, width=28)
    wanted = np.ones((60, 60), int)
    wanted[35:], wanted[:, 28:] = 0, 0
    windows = [Window(row=r, col=c, height=h, width=w) for r, c, h, w in holes]
    for hole in windows:
        wanted[hole.slices()] = 0
    count = np.zeros((60, 60), int)

    for part in without(whole, windows):
        count[part.slices()] += 1

    np.testing.assert_array_equal(count, wanted)
