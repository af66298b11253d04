"""Densities are counts over areas that are right, and their intervals hold the truth as often as they say."""

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from support_results import empty_result, result_of
from support_scenes import KINDS, random_scene

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output.cells_shape import centres_of
from seggeo.output.cells_table import Extras
from seggeo.output.density import SIZE_EDGES, density_of, map_cells, positivity_of, ratio_interval
from seggeo.output.density_map import draw_density, render_density, smooth_density

SHAPE = (400, 500)


def slide(shape=SHAPE, um=2.0, unit="um"):
    return Frame(height=shape[0], width=shape[1], transform=Affine.scale(4), spacing=(1, um, um), unit=unit, scale=4.0)


def half_disc(h=61, w=83):
    y, x = np.mgrid[:h, :w]
    return np.hypot((y - 30) / 30, (x - 41) / 41) < 0.9


@pytest.fixture(scope="module")
def result():
    return result_of(random_scene(KINDS[0], 3, SHAPE), slide(), classes=("a", "b"), batch=9)


def test_counts_and_areas_are_those_of_the_tissue(result):
    mask = half_disc()
    cells = map_cells(result, mask)
    rows, cols = centres_of(result.objects.instances)
    inside = mask[(rows * 61 / 400).astype(int), (cols * 83 / 500).astype(int)]
    density = density_of(cells)
    assert cells.count == inside.sum()
    assert cells.outside == (~inside).sum()
    assert density.area_mm2 == pytest.approx(mask.mean() * 0.8 * 1.0)
    assert density.per_mm2.value == pytest.approx(inside.sum() / density.area_mm2)
    assert density.per_mm2.low < density.per_mm2.value < density.per_mm2.high
    assert density.per_mm2.blocks >= 30
    assert [density_of(cells, i).count for i in (0, 1)] == list(
        np.bincount(result.objects.instances.label[inside], minlength=2)
    )


def test_sizes_count_every_cell(result):
    cells = map_cells(result)
    area = result.objects.instances.area * 4.0
    assert np.array_equal(cells.sizes, np.histogram(area, SIZE_EDGES)[0])
    assert cells.unit == "um2"


def test_large_slides_have_blocks_of_a_millimetre():
    cells = map_cells(empty_result(slide((20_000, 30_000), um=1.0)))
    density = density_of(cells)
    assert cells.block_mm == 1.0
    assert density.per_mm2.blocks == 600
    assert density.area_mm2 == pytest.approx(600)
    assert (density.per_mm2.value, density.per_mm2.low) == (0, 0)
    assert density.per_mm2.high == pytest.approx(3.689 / 600, rel=1e-3)


def test_without_resolution_or_tissue_there_is_no_density(result):
    plain = result_of(random_scene(KINDS[0], 3, SHAPE), slide(unit="px"))
    assert density_of(map_cells(plain)) is None
    assert map_cells(plain).count == plain.count
    assert density_of(map_cells(result, np.zeros((5, 5), bool))) is None
    with pytest.raises(OutputError, match="mask"):
        map_cells(result, np.zeros((0, 4), bool))


def test_positivity_is_a_share_with_an_interval(result):
    hot = np.arange(result.count) % 4 == 0
    cells = map_cells(result, None, Extras(columns={"hot": hot}, positive="hot"))
    share = positivity_of(cells)
    assert share.value == pytest.approx(hot.mean())
    assert 0 <= share.low < share.value < share.high <= 1
    assert positivity_of(map_cells(result)) is None


def tissue_blocks(points, length, side):
    """Counts of points and areas on the blocks of a round piece of tissue."""
    n = int(np.ceil(length / side)) * 4
    step = side / 4
    y, x = (np.mgrid[:n, :n] + 0.5) * step - length / 2
    mask = np.hypot(y, x) < length / 2
    at = (points / step).astype(int)
    at = at[mask[at[:, 0], at[:, 1]]]
    counts = np.zeros((n, n))
    np.add.at(counts, tuple(at.T), 1)
    return (v.reshape(n // 4, 4, n // 4, 4).sum((1, 3)) for v in (counts, mask * step**2))


def even(rng, length, density):
    return rng.random((rng.poisson(density * length**2), 2)) * length


def clustered(rng, length, density, spread):
    """Matern's idea with normal clusters (Thomas process): on average 50 cells in each."""
    border = 4 * spread
    centres = rng.random((rng.poisson(density / 50 * (length + 2 * border) ** 2), 2)) * (length + 2 * border) - border
    points = np.repeat(centres, rng.poisson(50, len(centres)), axis=0)
    points = points + rng.normal(0, spread, points.shape)
    return points[((points >= 0) & (points < length)).all(axis=1)]


@pytest.mark.parametrize(
    ("process", "density", "length", "runs"),
    [
        (even, 50, 10.0, 800), (even, 3, 10.0, 800), (even, 400, 2.5, 800),
        (lambda rng, length, d: clustered(rng, length, d, 0.1), 100, 10.0, 400),
        (lambda rng, length, d: clustered(rng, length, d, 0.3), 100, 10.0, 400),
    ],
    ids=["even", "sparse", "small", "clusters", "wide clusters"],
)  # fmt: skip
def test_intervals_hold_the_truth_as_often_as_they_say(process, density, length, runs):
    rng = np.random.default_rng(99)
    side = min(1.0, np.sqrt(np.pi * length**2 / 4 / 40))
    held = []
    for _ in range(runs):
        ratio = ratio_interval(*tissue_blocks(process(rng, length, density), length, side))
        held.append(ratio.low <= density <= ratio.high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_intervals_of_independent_blocks_that_ignore_neighbours_would_not_do():
    rng = np.random.default_rng(8)
    wide, narrow = [], []
    for _ in range(60):
        counts, area = tissue_blocks(clustered(rng, 10.0, 100, 0.3), 10.0, 1.0)
        ratio = ratio_interval(counts, area)
        order = rng.permutation(counts.size)  # places forgotten
        alone = ratio_interval(counts.ravel()[order].reshape(counts.shape), area.ravel()[order].reshape(area.shape))
        wide.append(np.log(ratio.high / ratio.low))
        narrow.append(np.log(alone.high / alone.low))
    assert np.mean(wide) > 1.2 * np.mean(narrow)


@pytest.mark.parametrize(("events", "low", "high"), [(0, 0.0, 3.6889), (5, 1.6235, 11.6683)])
def test_one_block_gives_the_exact_interval_of_a_count(events, low, high):
    ratio = ratio_interval(np.array([[events]]), np.array([[1.0]]))
    assert (ratio.low, ratio.high) == pytest.approx((low, high), abs=1e-4)


def test_the_map_is_the_density_where_tissue_is_and_is_drawn(result, tmp_path):
    cells = map_cells(result, half_disc())
    values = smooth_density(cells)
    full = cells.area_mm2 > 0.99 * cells.area_mm2.max()
    assert values[full].mean() == pytest.approx(density_of(cells).per_mm2.value, rel=0.25)
    thumbnail = np.full((200, 250, 3), 240, np.uint8)
    path = draw_density(cells, thumbnail, result.frame, tmp_path / "map.png", "a $x_1 <b>", half_disc())
    with Image.open(path) as image:
        assert min(image.size) > 500
    drawn = render_density(cells, thumbnail, result.frame, tissue=half_disc(), inches=3)
    assert drawn.dtype == np.uint8
    assert np.ptp(drawn.astype(int), axis=2).max() > 80
