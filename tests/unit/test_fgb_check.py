"""A FlatGeobuf that lacks something is noticed, wherever it is lacking, and a whole one is not refused."""

import random
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from seggeo.errors import OutputError
from seggeo.output.fgb_check import check_fgb


def write(path: Path, count: int) -> Path:
    left = np.arange(count, dtype=float)
    boxes = np.array(shapely.to_wkb(shapely.box(left, 0, left + 1, 1)), object)
    pyogrio.raw.write(
        path, geometry=boxes, field_data=[np.arange(count)], fields=["id"], geometry_type="Polygon", crs="EPSG:32633",
        driver="FlatGeobuf", layer_options={"SPATIAL_INDEX": "YES"},
    )  # fmt: skip
    return path


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 255, 256, 257, 4097])
def test_a_whole_file_passes(tmp_path: Path, count: int):
    check_fgb(write(tmp_path / "a.fgb", count), count)


@pytest.mark.parametrize("count", [1, 40, 700])
def test_a_lost_stretch_is_noticed(tmp_path: Path, count: int):
    path, rng = write(tmp_path / "a.fgb", count), random.Random(count)
    whole = path.read_bytes()
    start = 12 + int.from_bytes(whole[8:12], "little")  # index and features; GDAL itself reads the header again
    for _ in range(60):
        first = rng.randrange(start, len(whole))
        length = rng.choice([1, 4, 40, 960, 4096])
        path.write_bytes(whole[:first] + whole[first + length :])
        with pytest.raises(OutputError):
            check_fgb(path, count)


@pytest.mark.parametrize("told", [0, 39, 41])
def test_another_number_of_features_is_noticed(tmp_path: Path, told: int):
    with pytest.raises(OutputError):
        check_fgb(write(tmp_path / "a.fgb", 40), told)
