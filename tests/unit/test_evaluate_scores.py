"""What is counted and how: emptiness, splits, merges, ignored regions, classes, seams, sizes, groups."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from support_evaluate import boxes_image, poor_copy

import seggeo
from seggeo.errors import ConfigError, SourceError
from seggeo.evaluation.compare import check_grids, compare
from seggeo.evaluation.figure import draw_figure
from seggeo.evaluation.objects import objects_of
from seggeo.evaluation.options import THRESHOLDS, Options
from seggeo.evaluation.rows import OUTCOMES, write_csv
from seggeo.evaluation.seams import near_seams
from seggeo.evaluation.sizes import by_size
from seggeo.evaluation.table import lines
from seggeo.evaluation.tally import nothing
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.tiling import TileGrid

EMPTY = np.zeros((12, 16), np.int64)
ONE = EMPTY.copy()
ONE[3:8, 4:9] = 7


def squares(*boxes: tuple[int, int, int, int]) -> Instances:
    masks = np.zeros((len(boxes), 40, 40), bool)
    for mask, (row, col, height, width) in zip(masks, boxes, strict=True):
        mask[row : row + height, col : col + width] = True
    return Instances.from_masks(masks)


@pytest.mark.parametrize(
    ("pred", "truth", "pq", "count_error"),
    [
        (EMPTY, EMPTY, None, None),
        (EMPTY, ONE, 0, -1),
        (ONE, EMPTY, 0, None),
        (ONE, ONE, 1, 0),
        (EMPTY[:0], EMPTY[:0], None, None),
    ],
)
def test_nothing_is_ever_divided_by_zero(pred, truth, pq, count_error):
    result = seggeo.evaluate(pred, truth)
    values = result.to_json()

    assert values["pooled"]["pq"] == pq
    assert values["pooled"]["mean_ap"] == pq
    assert values["pooled"]["aji"] == values["pooled"]["aji_plus"] == pq
    assert values["pooled"]["count_error"] == count_error
    json.dumps(values, allow_nan=False)
    assert [line.split()[0] for line in lines(result) if line.startswith("  0.")] == [f"{t:.2f}" for t in THRESHOLDS]


def test_rows_and_figure_of_nothing(tmp_path: Path):
    result = seggeo.evaluate(EMPTY, EMPTY)

    assert write_csv(tmp_path / "rows.csv", result.rows.items()).read_text().count("\n") == 1
    assert draw_figure(result, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_images_without_objects_are_left_out_of_means_and_not_of_sums():
    result = seggeo.evaluate([ONE, EMPTY, ONE], [ONE, EMPTY, EMPTY])

    assert result.mean["pq"] == 0.5
    assert isnan(result.images[1].scores.pq)
    assert (result.pooled.tp, result.pooled.fp, result.pooled.fn) == (1, 1, 0)


def test_splits_and_merges_are_counted_by_most_of_the_piece_and_a_tenth_of_the_whole():
    truth = squares((0, 0, 20, 20), (0, 25, 10, 10), (10, 25, 10, 10))
    halves = squares((0, 0, 10, 20), (10, 0, 10, 20), (0, 25, 20, 10))
    both = seggeo.evaluate(halves, truth).pooled
    sliver = seggeo.evaluate(squares((0, 0, 19, 20), (19, 0, 1, 20)), truth).pooled
    twice = seggeo.evaluate(squares((0, 0, 20, 20), (0, 0, 20, 19)), truth).pooled

    assert (both.splits, both.merges) == (1, 1)
    assert (sliver.splits, sliver.merges) == (0, 0)
    assert (twice.splits, twice.fp) == (1, 1)


def test_what_lies_in_ignored_regions_is_neither_right_nor_wrong():
    truth = objects_of(squares((0, 0, 10, 10), (20, 0, 20, 40)), ignored=[False, True])
    inside = seggeo.evaluate(squares((0, 0, 10, 10), (22, 3, 5, 5), (30, 3, 5, 5)), truth).pooled
    beside = seggeo.evaluate(squares((0, 0, 10, 10), (15, 3, 10, 5), (14, 20, 10, 5)), truth)

    assert (inside.tp, inside.fp, inside.fn, inside.n_true, inside.n_pred) == (1, 0, 0, 1, 1)
    assert inside.aji == inside.aji_plus == 1
    assert beside.pooled.fp == 2  # half inside, and 4 of 10 rows inside
    assert [OUTCOMES[o] for o in beside.rows["image"][0].outcome] == ["hit", "ignored"]


def with_classes(instances: Instances, label: list[int], classes: tuple[str, ...], **more):
    from dataclasses import replace

    return objects_of(replace(instances, label=np.array(label, np.int32)), classes=classes, **more)


def test_classes_are_matched_by_name_within_themselves():
    places = squares((0, 0, 10, 10), (0, 20, 10, 10), (20, 0, 10, 10))
    truth = with_classes(places, [0, 0, 1], ("roof", "shed"))
    pred = with_classes(places, [2, 0, 0], ("shed", "tank", "roof"))
    result = seggeo.evaluate(pred, truth)

    assert result.pooled.pq == 1
    assert sorted(result.classes) == ["roof", "shed", "tank"]
    assert (result.classes["roof"].tp, result.classes["roof"].fn, result.classes["roof"].fp) == (1, 1, 0)
    assert (result.classes["shed"].tp, result.classes["shed"].fn, result.classes["shed"].fp) == (1, 0, 1)
    assert result.class_mean["pq"] == pytest.approx((2 / 3 + 2 / 3) / 2)  # tank has no object and no say


def test_classes_without_a_common_name_are_said_and_not_compared():
    places = squares((0, 0, 10, 10), (0, 20, 10, 10))
    truth, pred = with_classes(places, [0, 0], ("nucleus",)), with_classes(places, [0, 0], ("object",), scored=True)
    result = seggeo.evaluate(pred, truth)

    assert result.classes == {}
    assert result.coco is not None
    assert result.coco.ap == pytest.approx(1)
    assert "no class name in common" in result.notes[0]


def test_no_scores_no_coco():
    assert seggeo.evaluate(ONE, ONE).coco is None


@pytest.mark.parametrize(("tile", "halo"), [(20, 3), (20, 0), (16, 4), (64, 3), (33, 8)])
def test_near_a_seam_is_sharing_a_pixel_with_what_two_windows_saw(tile: int, halo: int):
    grid = TileGrid(height=70, width=90, tile=tile, halo=halo)
    shared = np.zeros((70, 90), bool)
    for start, stop, core in ((grid.row_window, grid.row_core, grid.rows), (grid.col_window, grid.col_core, grid.cols)):
        for i in range(core - 1):
            low, high = start(i + 1)[0], start(i)[1]
            if low >= high:
                low, high = stop(i)[1] - 1, stop(i)[1] + 1
            if start == grid.row_window:
                shared[low:high] = True
            else:
                shared[:, low:high] = True
    objects = Instances.from_labels(np.arange(1, 70 * 90 + 1).reshape(70, 90))  # every pixel an object of its own

    assert (near_seams(objects, grid) == shared.ravel()).all()


def test_near_and_interior_add_up_to_all():
    rng = np.random.default_rng(11)
    truth = boxes_image(rng, 90, 200)
    pred = poor_copy(rng, truth)
    grid = TileGrid(height=90, width=90, tile=32, halo=4)
    split = compare(objects_of(pred), objects_of(truth), THRESHOLDS, grid=grid)
    whole = compare(objects_of(pred), objects_of(truth), THRESHOLDS)
    interior, near = split.strata

    assert min(interior.n_true, near.n_true) > 5
    for name in ("n_true", "n_pred", "splits", "merges", "aji_shared", "aji_union", "aji_plus_shared", "aji_plus_union"):
        assert getattr(interior, name) + getattr(near, name) == getattr(whole.whole, name)
    for name in ("tp", "fp", "fn"):
        assert (getattr(interior, name) + getattr(near, name) == getattr(whole.whole, name)).all()
    np.testing.assert_allclose(interior.iou + near.iou, whole.whole.iou)
    assert (nothing(10).tp + near.tp == near.tp).all()


def test_rows_tell_every_object_once_and_agree_with_the_sums():
    rng = np.random.default_rng(4)
    truth = boxes_image(rng, 60, 80)
    pred = poor_copy(rng, truth)
    result = seggeo.evaluate(pred, truth)
    of_truth, of_pred = result.rows["image"]
    counts = [np.bincount(rows.outcome, minlength=4) for rows in (of_truth, of_pred)]

    assert counts[0].tolist() == [result.pooled.tp, result.pooled.fn, 0, 0]
    assert counts[1].tolist() == [result.pooled.tp, 0, result.pooled.fp, 0]
    assert (of_truth.id == np.unique(truth)[1:]).all()
    for i in np.flatnonzero(of_truth.outcome == 0):
        a, b = truth == of_truth.id[i], pred == of_truth.partner[i]
        assert of_truth.iou[i] == pytest.approx((a & b).sum() / (a | b).sum())
    sizes = by_size(result.rows.values())
    assert sizes.n_true.sum() == result.pooled.n_true
    assert np.nansum(sizes.recall * sizes.n_true) == pytest.approx(result.pooled.tp)
    assert np.nansum(sizes.precision * sizes.n_pred) == pytest.approx(result.pooled.tp)


def test_counts_explained_by_predicted_counts():
    counts = [(3, 3), (5, 4), (9, 10)]
    images = [[np.arange(side, dtype=np.int64)[None] + 1 for side in pair] for pair in counts]
    padded = [[np.pad(i, ((0, 0), (0, 12 - i.shape[1]))) for i in pair] for pair in images]
    result = seggeo.evaluate([p for _, p in padded], [t for t, _ in padded])
    true, pred = np.array(counts).T

    assert result.mean["count_r2"] == pytest.approx(1 - ((true - pred) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    assert result.pooled.count_error == pytest.approx((17 - 17) / 17)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"width": 41}, "size"),
        ({"crs": "EPSG:32633"}, "coordinate systems"),
        ({"transform": (0.5, 0, 7, 0, -0.5, 100)}, "place"),
    ],
)
def test_two_grids_are_refused(changed: dict, word: str):
    from affine import Affine
    from pyproj import CRS

    values = {"height": 30, "width": 40, "transform": (0.5, 0, 0, 0, -0.5, 100), "crs": "EPSG:32632"}
    frames = []
    for given in (values, {**values, **changed}):
        made = {**given, "transform": Affine(*given["transform"]), "crs": CRS.from_user_input(given["crs"]).to_wkt()}
        frames.append(Frame(**made))
    check_grids(frames[0], frames[0])
    check_grids(frames[0], None)

    with pytest.raises(SourceError, match=word):
        check_grids(*frames)


@pytest.mark.parametrize("thresholds", [(), (0.0,), (0.5, 0.5), (0.7, 0.5), (1.5,), (float("nan"),)])
def test_thresholds_that_cannot_be_are_refused(thresholds: tuple[float, ...]):
    with pytest.raises(ConfigError, match="thresholds"):
        Options(thresholds=thresholds)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="no option threshold"):
        seggeo.evaluate(ONE, ONE, threshold=0.5)
    with pytest.raises(ConfigError, match="a set to evaluate"):
        seggeo.evaluate({1}, ONE)
