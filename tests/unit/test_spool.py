"""Merged objects on disk: put in order, numbered, filtered, and read back whole or by window."""

from dataclasses import replace

import numpy as np
import pytest

from seggeo.config import Merge
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, concat
from seggeo.merge.resolve import Tally
from seggeo.merge.sweep import Merged
from seggeo.run.result import BAND_ROWS, Spool, StoredResult, by_slice

FRAME = Frame(height=2000, width=1500, depth=2)


def random_objects(seed, count=300):
    """Boxes of random size all over a volume, some taller than a band, with repeats of places."""
    rng = np.random.default_rng(seed)
    tall = np.where(rng.random(count) < 0.1, rng.integers(600, 900, count), rng.integers(1, 30, count))
    wide = rng.integers(1, 30, count)
    origin = np.stack([rng.integers(0, 1100, count), rng.integers(0, 1400, count)], axis=1)
    origin[count // 2 : count // 2 + 20] = origin[:20]
    boxes = [np.ones((h, w), bool) for h, w in zip(tall, wide, strict=True)]
    found = Instances.from_masks(boxes, origin=origin, label=rng.integers(0, 3, count), score=rng.random(count))
    slices = rng.integers(0, FRAME.depth, count)
    return concat([found.take(np.array([i])).shift(0, 0, z=int(slices[i])) for i in range(count)])


def as_merged(instances):
    n = len(instances)
    return Merged(
        instances=instances, n_tiles=np.arange(n, dtype=np.int32) % 4 + 1, cut=np.arange(n) % 3 == 0,
        touches_edge=np.arange(n) % 5 == 0, tally=Tally(kept=n),
    )  # fmt: skip


def stored(folder, batches, rules=None, frame=FRAME):
    spool = Spool(folder, frame)
    for batch in batches:
        spool.add(batch)
    bands, dropped = spool.number(rules or Merge())
    found = StoredResult(
        frame=frame, classes=("a", "b", "c"), provenance={}, exclusive=False, bands=by_slice(bands), linking={}
    )  # fmt: skip
    return found, dropped


def split(merged, order, pieces):
    """The same objects in another order and other batches."""
    return [
        Merged(
            instances=merged.instances.take(some), n_tiles=merged.n_tiles[some], cut=merged.cut[some],
            touches_edge=merged.touches_edge[some], tally=Tally(kept=len(some)),
        )
        for some in np.array_split(order, pieces)
    ]  # fmt: skip


def everything(result):
    batches = list(result.iter_objects())
    return concat([b.instances for b in batches]), np.concatenate([b.id for b in batches])


def test_ids_count_up_by_slice_row_column_and_falling_area(tmp_path):
    result, dropped = stored(tmp_path / "m", [as_merged(random_objects(1))])
    instances, ids = everything(result)
    keys = list(zip(instances.z, instances.box[:, 0], instances.box[:, 1], -instances.area, strict=True))

    assert dropped == 0
    assert result.count == len(instances) == 300
    assert ids.tolist() == list(range(1, 301))
    assert ids.dtype == np.uint32
    assert keys == sorted(keys)


def test_the_order_in_which_objects_leave_the_sweep_leaves_no_trace(tmp_path):
    merged = as_merged(random_objects(2))
    first, _ = stored(tmp_path / "a", [merged])
    shuffled, _ = stored(tmp_path / "b", split(merged, np.random.default_rng(0).permutation(300), 17))

    for one, other in zip(first.bands.values(), shuffled.bands.values(), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.path.read_bytes() == b.path.read_bytes()


def test_columns_stay_with_their_objects(tmp_path):
    merged = as_merged(random_objects(3))
    result, _ = stored(tmp_path / "m", split(merged, np.arange(300)[::-1], 5))
    facts = {
        (int(i.z[k]), i.box[k].tobytes(), float(i.score[k])): (int(m.n_tiles[k]), bool(m.cut[k]), bool(m.touches_edge[k]))
        for m in [merged] for i in [m.instances] for k in range(len(i))
    }  # fmt: skip

    for batch in result.iter_objects():
        i = batch.instances
        for k in range(len(i)):
            key = (int(i.z[k]), i.box[k].tobytes(), float(i.score[k]))
            assert facts.pop(key) == (int(batch.n_tiles[k]), bool(batch.cut[k]), bool(batch.touches_edge[k]))
    assert not facts


def test_small_and_doubtful_objects_are_left_out_and_counted(tmp_path):
    deep = random_objects(4)
    merged = as_merged(replace(deep, z=np.zeros_like(deep.z)))
    area, score = merged.instances.area, merged.instances.score
    keep = (area >= 50) & (score >= 0.3)
    result, dropped = stored(tmp_path / "m", [merged], Merge(min_area=50, min_score=0.3), Frame(height=2000, width=1500))
    instances, ids = everything(result)

    assert 0 < keep.sum() < 300
    assert dropped == (~keep).sum()
    assert sorted(instances.area) == sorted(area[keep])
    assert ids.tolist() == list(range(1, keep.sum() + 1))


def test_cross_sections_of_a_volume_are_left_to_linking(tmp_path):
    result, dropped = stored(tmp_path / "m", [as_merged(random_objects(4))], Merge(min_area=50, min_score=0.3))

    assert (result.count, dropped) == (300, 0)


@pytest.mark.parametrize("z", [0, 1])
def test_a_window_gets_the_objects_whose_boxes_meet_it_uncut(tmp_path, z):
    result, _ = stored(tmp_path / "m", [as_merged(random_objects(5))])
    instances, ids = everything(result)
    rng = np.random.default_rng(6)
    for _ in range(30):
        row, col = (int(v) for v in rng.integers(0, 1400, 2))
        window = Window(row=row, col=col, height=int(rng.integers(1, 600)), width=int(rng.integers(1, 100)))
        box = instances.box
        meets = (box[:, 0] < window.row_stop) & (box[:, 2] > window.row) & (instances.z == z)
        meets &= (box[:, 1] < window.col_stop) & (box[:, 3] > window.col)
        got = result.in_window(window, z)

        assert got.id.tolist() == ids[meets].tolist()
        assert np.array_equal(got.instances.runs, instances.take(meets).runs)


def test_batches_are_bands_of_rows_so_that_memory_is_bounded(tmp_path):
    result, _ = stored(tmp_path / "m", [as_merged(random_objects(7))])
    for batch in result.iter_objects():
        assert len(np.unique(batch.instances.box[:, 0] // BAND_ROWS)) == 1
        assert len(np.unique(batch.instances.z)) == 1


def test_no_objects_at_all(tmp_path):
    result, dropped = stored(tmp_path / "m", [as_merged(Instances.empty())])

    assert (result.count, dropped) == (0, 0)
    assert list(result.iter_objects()) == []
    assert len(result.in_window(FRAME.window)) == 0
    assert result.in_window(FRAME.window).id.dtype == np.uint32


def test_a_spool_starts_empty(tmp_path):
    stored(tmp_path / "m", [as_merged(random_objects(8))])
    result, _ = stored(tmp_path / "m", [])

    assert result.count == 0
    assert not any((tmp_path / "m").iterdir())
