"""Scores of label volumes are those of the published definitions, written out on whole arrays."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label as components
from skimage.metrics import adapted_rand_error, variation_of_information
from support_evaluate import dense_aji, dense_aji_plus, dense_matches, dense_pq
from support_evaluate_volume import Labels, along, one_pair, volume_pairs

import seggeo
from seggeo.errors import ConfigError, SourceError
from seggeo.evaluation import volume_labels, volume_table
from seggeo.evaluation.rows import write_csv
from seggeo.evaluation.volume_files import ArrayVolume
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.evaluation.volume_pieces import PieceFinder
from seggeo.geometry import matrix_of
from seggeo.io.volume_file import Box, VolumeFacts

DATA = Path(__file__).parents[3] / "shared" / "data"
CUBE = np.ones((3, 3, 3), int)


def close(ours: float, theirs: float) -> bool:
    return (isnan(ours) and isnan(theirs)) or abs(ours - theirs) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_images_count_voxels(seed: int):
    for truth, pred in volume_pairs(12, seed):
        ours = seggeo.evaluate(pred, truth, thresholds=(0.25, 0.5, 0.75)).pooled
        # The dense rivals look at values only: a volume laid out flat has the same pairs.
        t, p = truth.reshape(len(truth), -1), pred.reshape(len(pred), -1)
        pq, sq, rq, tp = dense_pq(t, p)

        assert ours.tp == tp
        assert all(close(a, b) for a, b in ((ours.pq, pq), (ours.sq, sq), (ours.rq, rq)))
        assert close(ours.aji, dense_aji(t, p))
        assert close(ours.aji_plus, dense_aji_plus(t, p))
        assert [at.tp for at in ours.at] == [dense_matches(t, p, at.iou)[0] for at in ours.at]
        # An image of one row of slices is scored by the 2-D path: the same numbers, from another reader of pairs.
        assert str(seggeo.evaluate(p, t, thresholds=(0.25, 0.5, 0.75)).pooled) == str(ours)


def test_scores_are_stardists():
    matching = pytest.importorskip("stardist.matching", reason="StarDist is not installed").matching
    for truth, pred in volume_pairs(20, 50):
        for at in seggeo.evaluate(pred, truth).pooled.at:
            theirs = matching(truth, pred, thresh=at.iou)
            assert (at.tp, at.fp, at.fn) == (theirs.tp, theirs.fp, theirs.fn)


@pytest.mark.parametrize("seed", range(3))
def test_partitions_are_compared_as_scikit_image_does(seed: int):
    for truth, pred in volume_pairs(12, 100 + seed):
        ours = along(seggeo.evaluate(pred, truth))
        if not truth.any():
            assert isnan(ours.vi_split)
            assert isnan(ours.rand_error)
            continue
        split, merge = variation_of_information(truth, pred, ignore_labels=(0,))
        error, by_truth, by_pred = adapted_rand_error(truth, pred, ignore_labels=(0,))

        assert close(ours.vi_split, split)
        assert close(ours.vi_merge, merge)
        assert close(ours.rand_error, error)
        # scikit-image 0.26 gives the pairs over those of the truth first, which its documentation calls recall.
        assert close(ours.rand_recall, by_truth)
        assert close(ours.rand_precision, by_pred)


def dense_seg(truth: Labels, pred: Labels) -> float:
    """SEG: Jaccard index with the prediction that covers more than half, 0 without one; mean over true objects."""
    scores = []
    for own in np.unique(truth[truth > 0]):
        names, shared = np.unique(pred[truth == own], return_counts=True)
        best = [(n, s) for n, s in zip(names, shared, strict=True) if n > 0 and 2 * s > (truth == own).sum()]
        scores.append(best[0][1] / ((truth == own) | (pred == best[0][0])).sum() if best else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


def dense_along_z(truth: Labels, pred: Labels) -> tuple[int, int]:
    """Splits and merges along z: every pair of ids, every slice."""

    def follow(a: Labels, b: Labels, name: int, other: int) -> bool:
        """Whether `other` is a part of `name`, slice by slice and as a whole."""
        inside = 2 * ((a == name) & (b == other)).sum() > (b == other).sum()
        met = [
            ((s == name) & (t == other)).sum() / max(((s == name) | (t == other)).sum(), 1) for s, t in zip(a, b, strict=True)
        ]
        return bool(inside and max(met) > 0.5)

    ids = np.unique(truth[truth > 0]), np.unique(pred[pred > 0])
    splits = sum(sum(follow(truth, pred, t, p) for p in ids[1]) > 1 for t in ids[0])
    return splits, sum(sum(follow(pred, truth, p, t) for t in ids[0]) > 1 for p in ids[1])


@pytest.mark.parametrize("seed", range(2))
def test_what_is_counted_along_z_is_what_is_defined(seed: int):
    for truth, pred in volume_pairs(10, 200 + seed):
        result = seggeo.evaluate(pred, truth)
        ours = along(result)
        slices = [dense_pq(t, p) for t, p in zip(truth, pred, strict=True)]
        sections = [sum(len(np.unique(s[s > 0])) for s in side) for side in (truth, pred)]
        matched = sum(s[3] for s in slices)

        assert (ours.splits, ours.merges) == dense_along_z(truth, pred)
        assert close(ours.seg, dense_seg(truth, pred))
        assert close(ours.slice_rq, 2 * matched / sum(sections) if sum(sections) else np.nan)
        assert close(ours.slices_true, sections[0] / result.pooled.n_true if result.pooled.n_true else np.nan)
        assert close(ours.slices_pred, sections[1] / result.pooled.n_pred if result.pooled.n_pred else np.nan)
        assert all(close(a, b[0]) for a, b in zip(result.volumes["image"].pq_by_slice, slices, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_the_26_connected_components(seed: int):
    rng = np.random.default_rng(300 + seed)
    for density in (0.1, 0.3, 0.6):
        labels = (rng.random((7, 11, 9)) < density) * rng.integers(1, 4, (7, 11, 9))
        finder = PieceFinder()
        for plane in labels:
            finder.add(plane)
        found = finder.finish()

        assert found.id.tolist() == np.unique(labels[labels > 0]).tolist()
        for i, name in enumerate(found.id):
            where = np.argwhere(labels == name)
            assert found.pieces[i] == components(labels == name, CUBE)[1]
            assert found.voxels[i] == len(where)
            assert found.slices[i] == len(np.unique(where[:, 0]))
            assert found.box[i].tolist() == [*where.min(axis=0), *(where.max(axis=0) + 1)]


def tube(*stretches: tuple[int, int, int], depth: int = 20, row: int = 4) -> Labels:
    """A square rod along z in stretches `(first slice, one past the last, id)`."""
    labels = np.zeros((depth, 20, 20), np.int64)
    for first, stop, name in stretches:
        labels[first:stop, row : row + 6, 4:10] = name
    return labels


@pytest.mark.parametrize(
    ("truth", "pred", "counts"),
    [
        (tube((2, 18, 1)), tube((2, 18, 7)), (0, 0, 0)),
        (tube((2, 18, 1)), tube((2, 10, 7), (10, 18, 8)), (1, 0, 0)),
        (tube((2, 10, 1), (10, 18, 2)), tube((2, 18, 7)), (0, 1, 0)),
        (tube((2, 18, 1)), tube((2, 9, 7), (11, 18, 7)), (0, 0, 0)),  # two slices missed, linked over the gap
        (tube((2, 8, 1), (13, 18, 2)), tube((2, 8, 7), (13, 18, 7)), (0, 1, 1)),  # one id for two rods, five slices apart
        (tube((2, 18, 1)), tube((2, 17, 7), (17, 18, 8)), (1, 0, 0)),  # the last slice went astray: no tenth, still a split
    ],
    ids=["linked", "split", "merge", "bridged", "reused", "stray end"],
)
def test_rods_along_z(truth: Labels, pred: Labels, counts: tuple[int, int, int]):
    ours = along(seggeo.evaluate(pred, truth))

    assert (ours.splits, ours.merges, ours.reused_ids) == counts
    assert ours.reused_ids_true == 0


def test_unlinked_slices_are_splits_though_each_is_less_than_a_tenth():
    truth = tube((0, 20, 1))
    pred = truth * np.arange(1, 21)[:, None, None]
    result = seggeo.evaluate(pred, truth)

    assert (along(result).splits, result.pooled.splits) == (1, 0)
    assert along(result).slice_pq == 1
    assert result.pooled.pq == 0


def test_places_of_an_id_depend_on_the_gap_and_specks_are_none():
    truth = tube((2, 5, 1), (8, 12, 1))
    speck = truth.copy()
    speck[15, 18, 18] = 1

    assert along(seggeo.evaluate(truth, truth, link_gap=3)).reused_ids == 0
    assert along(seggeo.evaluate(truth, truth, link_gap=2)).reused_ids == 1
    assert along(seggeo.evaluate(speck, truth, link_gap=3)).reused_ids == 0
    assert along(seggeo.evaluate(speck, truth, link_gap=3)).loose_ids == 1
    dust = np.zeros((12, 60, 60), np.int64)
    dust[::2, ::2, ::2] = 1
    assert (along(seggeo.evaluate(dust, dust)).reused_ids, along(seggeo.evaluate(dust, dust)).loose_ids) == (0, 1)
    # Side by side in the same slices is another place, whatever the gap.
    beside = tube((2, 12, 1)) + tube((2, 12, 1), row=13)
    assert along(seggeo.evaluate(beside, truth, link_gap=9)).reused_ids == 1


def test_volumes_add_up_and_images_do_not_join_them():
    pairs = volume_pairs(3, 400)
    truths, preds = [t for t, _ in pairs], [p for _, p in pairs]
    pooled = seggeo.evaluate(preds, truths)
    # One volume of all of them, an empty slice between two: ids made distinct.
    blank = np.zeros((1, *truths[0].shape[1:]), np.int64)
    one = [
        np.concatenate([part for i, v in enumerate(side) for part in (np.where(v > 0, v + 5000 * i, 0), blank)])
        for side in (preds, truths)
    ]
    whole = seggeo.evaluate(*one)

    assert pooled.pooled.tp == whole.pooled.tp
    assert close(pooled.pooled.pq, whole.pooled.pq)
    for name in ("splits", "merges", "seg", "slice_pq", "slices_true", "slices_pred", "vi_split", "loose_ids"):
        assert close(getattr(along(pooled), name), getattr(along(whole), name))
    with pytest.raises(ConfigError, match="do not add up"):
        seggeo.evaluate([preds[0], preds[0][0]], [truths[0], truths[0][0]])
    with pytest.raises(ConfigError, match="the prediction is an image and the truth a volume"):
        seggeo.evaluate(preds[0][0], truths[0])


class Chunked(ArrayVolume):
    """An array in chunks of some slices, which tells how much is decoded at once."""

    def __init__(self, values: Labels, depth: int) -> None:
        super().__init__(values)
        self.facts = VolumeFacts(
            kind="chunks", family="tiff", shape=self.facts.shape, dtype=self.facts.dtype, matrix=matrix_of(np.eye(4)),
            chunk=(depth, *self.facts.shape[1:]),
        )  # fmt: skip
        self.reads: list[int] = []

    def read(self, box: Box, channel: int, time: int) -> NDArray[np.int64]:
        self.reads.append(box[0].stop - box[0].start)
        return super().read(box, channel, time)

    def is_empty(self, box: Box) -> bool:
        return not self._values[box].any()


def test_slabs_and_portions_of_the_table_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch):
    truth, pred = one_pair(500)
    plain = seggeo.evaluate(pred, truth).to_json()
    monkeypatch.setattr(volume_table, "_PENDING", 3)
    for depth, slab_bytes in ((5, 2**28), (12, 2 * pred[0].nbytes), (12, 1)):
        monkeypatch.setattr(volume_labels, "_SLAB_BYTES", slab_bytes)
        file = Chunked(pred, depth)
        again = seggeo.evaluate(LabelVolume(name="chunks", file=file), truth).to_json()

        assert str(again) == str(plain)
        assert max(file.reads) == min(depth, max(1, slab_bytes // pred[0].nbytes))


def test_every_object_has_a_row_and_the_picture_is_of_the_worst_slice(tmp_path: Path):
    truth, pred = one_pair(600)
    result = seggeo.evaluate(pred, truth)
    write_csv(tmp_path / "rows.csv", result.rows.items())
    header, *rows = (tmp_path / "rows.csv").read_text().replace('"', "").splitlines()
    columns = header.split(",")
    values = [dict(zip(columns, row.split(","), strict=True)) for row in rows]

    assert len(rows) == result.pooled.n_true + result.pooled.n_pred
    for row in values:
        where = np.argwhere((truth if row["side"] == "truth" else pred) == int(row["id"]))
        assert (int(row["voxels"]), int(row["first_slice"]), int(row["last_slice"])) == (len(where), *where[[0, -1], 0])
    assert sum(row["outcome"] == "hit" for row in values) == 2 * result.pooled.tp
    assert result.shown is not None
    worst = int(result.shown.name.removeprefix("image, slice "))
    errors = [count_errors(t, p) for t, p in zip(truth, pred, strict=True)]
    assert errors[worst] == max(errors)
    assert set(np.unique(truth[worst])) - {0} == set(result.shown.truth.ids.tolist())


def count_errors(truth: Labels, pred: Labels) -> int:
    """Objects of one slice that match nothing."""
    whole = seggeo.evaluate(pred, truth).pooled
    return whole.fp + whole.fn


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 3, 4), 0.5), "not whole numbers"),
        (np.full((2, 3, 4), np.inf), "not whole numbers"),
        (np.full((2, 3, 4), 2**63, np.uint64), "63 bits"),
        (np.full((2, 3, 4), 1j), "complex128"),
        (np.zeros((0, 3, 4), int), "no voxels"),
    ],
)
def test_what_holds_no_ids_is_refused(values: NDArray[np.generic], words: str):
    with pytest.raises(SourceError, match=words):
        seggeo.evaluate(values, np.ones((2, 3, 4), int))


def test_background_is_zero_negative_and_not_a_number():
    labels = np.array([[[1.0, 0, -3, np.nan]]])

    assert seggeo.evaluate(labels, np.array([[[1, 0, 0, 0]]], np.uint8)).pooled.pq == 1
    assert seggeo.evaluate(labels > 0, np.array([[[-1, 0, 0, 0]]], np.int8)).pooled.n_true == 0


@pytest.mark.parametrize("axes", [2, 3])
def test_objects_are_not_lost_for_being_negative(axes: int):
    labels = np.array([[0, -1, -1, -2], [0, 0, 3, -2]])
    labels = labels[None] if axes == 3 else labels
    with pytest.raises(SourceError, match="negative ids, -2 to -1"):
        seggeo.evaluate(labels, np.abs(labels))
