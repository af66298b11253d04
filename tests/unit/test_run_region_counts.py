"""Cells by region: equal to asking every region for every cell."""

import numpy as np
import pytest
import shapely
from affine import Affine
from support_results import empty_result, result_of
from support_scenes import random_scene

from seggeo.geometry import Frame
from seggeo.io.regions import Region
from seggeo.output.cells_shape import centres_of
from seggeo.run.region_counts import Lookup, count_regions

SHAPE = (200, 300)
FRAME = Frame(height=200, width=300, transform=Affine(4, 0, 100, 0, 4, 60), unit="um", spacing=(1, 2, 2))
REGIONS = [
    Region(name="outer", shape=shapely.box(10, 10, 250, 190)),
    Region(name="inner", shape=shapely.Point(100, 100).buffer(50)),
    Region(name="hole", shape=shapely.Point(100, 100).buffer(20)),
    Region(name="beside", shape=shapely.box(200, 100, 400, 150)),
]


@pytest.mark.parametrize("batch", [5, 1000])
def test_every_cell_is_in_the_smallest_region_around_it(batch):
    result = result_of(random_scene("discs", 4, SHAPE), FRAME, batch=batch)
    rows, cols = centres_of(result.objects.instances)
    points = shapely.points(cols, rows)
    inside = np.array([shapely.contains(region.shape, points) for region in REGIONS])
    area = np.array([shapely.area(region.shape) for region in REGIONS])
    smallest = np.where(inside.any(axis=0), np.where(inside, area[:, None], np.inf).argmin(axis=0) + 1, 0)

    found = count_regions(result, REGIONS)
    np.testing.assert_array_equal(Lookup(REGIONS, FRAME)(*FRAME.pixel_to_world(rows, cols)), smallest)
    assert [row["cells"] for row in found] == [(smallest == i + 1).sum() for i in range(4)]
    assert [row["cells_with_nested"] for row in found] == inside.sum(axis=1).tolist()
    assert sum(row["cells"] for row in found) > 10


def test_areas_are_of_the_slide_and_counted_once():
    found = {row["region"]: row for row in count_regions(result_of(random_scene("discs", 4, SHAPE), FRAME), REGIONS)}
    mm2 = 4e-6

    assert found["hole"]["area_mm2"] == found["hole"]["area_with_nested_mm2"]
    assert found["inner"]["area_mm2"] == pytest.approx(
        (shapely.area(REGIONS[1].shape) - shapely.area(REGIONS[2].shape)) * mm2, abs=1e-6
    )
    assert found["beside"]["area_with_nested_mm2"] == pytest.approx(100 * 50 * mm2, abs=1e-6), "the slide ends at column 300"
    alone = found["outer"]["area_mm2"] + found["inner"]["area_mm2"] + found["hole"]["area_mm2"] + found["beside"]["area_mm2"]
    union = shapely.area(shapely.intersection(shapely.union_all([r.shape for r in REGIONS]), shapely.box(0, 0, 300, 200)))
    assert alone == pytest.approx(union * mm2, abs=1e-5)
    assert found["outer"]["per_mm2"] == pytest.approx(found["outer"]["cells"] / found["outer"]["area_mm2"], rel=1e-3)


def test_no_cells_and_no_resolution():
    found = count_regions(empty_result(Frame(height=200, width=300)), REGIONS)
    assert [(row["cells"], row["area_mm2"], row["per_mm2"]) for row in found] == [(0, None, None)] * 4
