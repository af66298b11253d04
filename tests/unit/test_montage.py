"""Montages: slices that hold objects, spread evenly, in colours that stay, in true proportions and of bounded size."""

import numpy as np
import pytest
from PIL import Image
from support_volume import blobs, placement, volume_of

from seggeo.geometry import Frame
from seggeo.output.montage import chosen_slices, draw_montage


def result_of(labels, spacing=(1.0, 1.0, 1.0), **fields):
    depth, height, width = labels.shape
    frame = Frame(
        depth=depth, height=height, width=width, placement=placement(spacing), spacing=spacing, **{"unit": "mm", **fields}
    )
    return volume_of(labels, frame)


def gray(labels, value=70, step=1):
    return lambda z: np.full((*labels.shape[1:], 3), value, np.uint8)[::step, ::step]


def drawn(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("shape", [(60, 40, 40), (30, 30, 300), (3, 3000, 2600), (1, 20, 30), (30, 1, 1)])
def test_pictures_fit_a_screen_and_ask_for_each_slice_once(tmp_path, shape):
    labels = blobs(1, shape, 12)
    asked = []

    def slices(z):
        asked.append(z)
        return np.zeros((*(min(n, 500) for n in shape[1:]), 3), np.uint8)

    height, width, _ = drawn(draw_montage(result_of(labels), slices, tmp_path / "m.png")).shape

    assert asked == sorted(set(asked))
    assert len(asked) == min(24, sum(labels[z].any() for z in range(shape[0])))
    assert all(labels[z].any() for z in asked)
    assert width <= 2400
    assert height <= 2100


def test_slices_are_spread_evenly_over_those_that_hold_objects():
    counts = np.zeros(1000, int)
    counts[100:580] = 3

    chosen = chosen_slices(counts, 24)

    assert len(chosen) == 24
    assert set(np.diff(chosen)) == {20}
    assert chosen[0] - 100 == pytest.approx(579 - chosen[-1], abs=1)
    assert chosen_slices(counts[:103], 24) == [100, 101, 102]
    assert chosen_slices(np.zeros(5, int), 24) == [0, 1, 2, 3, 4]
    assert len(chosen_slices(np.zeros(50, int), 24)) == 24


def test_an_object_keeps_its_colour_and_its_place_through_the_slices(tmp_path):
    labels = np.zeros((4, 60, 60), int)
    labels[:, 10:30, 10:30], labels[:, 35:55, 30:55] = 1, 2
    picture = drawn(draw_montage(result_of(labels), gray(labels), tmp_path / "m.png"))

    panels = [picture[r : r + 240, c : c + 240] for r in (0, 246) for c in (0, 246)]
    one, two = ({tuple(p[y * 4, x * 4]) for p in panels} for y, x in ((20, 20), (45, 40)))
    assert len(one) == len(two) == 1  # the same fill in every slice
    assert one != two
    assert {tuple(p[230, 20]) for p in panels} == {(70, 70, 70)}
    red, green, blue = (int(v) for v in panels[0][10 * 4 + 1, 80])
    assert max(red, green, blue) - min(red, green, blue) > 60  # the outline lies where the object begins


def test_voxels_keep_their_proportions(tmp_path):
    labels = np.zeros((1, 40, 40), int)
    labels[0, 10:30, 10:30] = 1
    height, width, _ = drawn(draw_montage(result_of(labels, (1.0, 3.0, 1.0)), gray(labels), tmp_path / "m.png")).shape

    assert width == 160
    assert height - 480 == pytest.approx(25, abs=6)  # the line below


def test_the_same_bytes_come_again_and_empty_results_are_drawn(tmp_path):
    labels = blobs(5, (9, 30, 30))
    pictures = [draw_montage(result_of(labels), gray(labels, step=2), tmp_path / f"{i}.png").read_bytes() for i in range(2)]
    empty = draw_montage(result_of(labels * 0, unit="px", is_series=True), gray(labels), tmp_path / "none.png")

    assert pictures[0] == pictures[1]
    assert np.median(drawn(empty)[:100]) == 70


@pytest.mark.parametrize("space", ["RAS", "LPS", ""])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("axes", ["axial", "coronal", "sagittal"])
def test_patients_are_shown_as_radiologists_look_at_them(tmp_path, space, signs, axes):
    """Whichever way the file stores a patient, what is right, anterior or superior is at the same place of the picture."""
    z, row, col = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[axes]
    matrix = np.zeros((3, 4))
    for axis, world in enumerate((z, row, col)):
        matrix[world, axis] = signs[world]
    labels = np.zeros((1, 40, 40), int)
    labels[0, :16, :12] = 1  # at the first rows and columns
    frame = Frame(depth=1, height=40, width=40, placement=placement(matrix=matrix, space=space), unit="mm")

    picture = drawn(draw_montage(volume_of(labels, frame), gray(labels), tmp_path / "m.png"))[:160, :160]

    rows, cols = np.nonzero((picture != 70).any(axis=2) & (np.indices((160, 160)).sum(axis=0) > 60))
    at_top, at_left = rows.mean() < 80, cols.mean() < 80
    to_ras = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}.get(space)
    if to_ras is None:
        assert (at_top, at_left) == (True, True)
        return
    upwards, leftwards = {1: 1, 2: 1}[row], {0: 1, 1: 1}[col]  # towards A or S, and towards R or A, in RAS
    assert at_top == (signs[row] * to_ras[row] * upwards < 0)
    assert at_left == (signs[col] * to_ras[col] * leftwards < 0)
