"""Tables of cells: units and coordinates, neighbours, extra columns, and the same bytes whatever the batches."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from affine import Affine
from scipy.spatial import cKDTree
from support_docs import code_blocks, tables
from support_results import empty_result, result_of
from support_scenes import KINDS, random_scene

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output import cells_near
from seggeo.output.cells import schema, write_cells, write_cells_csv
from seggeo.output.cells_near import NearestNeighbours
from seggeo.output.cells_shape import shapes_of
from seggeo.output.cells_table import Extras
from seggeo.protocols import SinkOptions

SHAPE = (260, 310)


def slide(**fields):
    how = {"transform": Affine(2, 0, 512, 0, 2, 256), "spacing": (1, 0.5, 0.5), "unit": "um", "scale": 2.0, **fields}
    return Frame(height=SHAPE[0], width=SHAPE[1], **how)


@pytest.fixture(scope="module")
def result():
    return result_of(random_scene(KINDS[0], 3, SHAPE), slide(), classes=("nucleus", 'odd, "name"'), batch=13)


def test_coordinates_and_units(result, tmp_path):
    table = pd.read_parquet(write_cells(result, tmp_path / "c.parquet", SinkOptions()))
    shapes = shapes_of(result.objects.instances)
    assert list(table["id"]) == list(range(1, result.count + 1))
    assert np.allclose(table["x_px"], 512 + 2 * shapes.col, atol=1e-3)
    assert np.allclose(table["y_px"], 256 + 2 * shapes.row, atol=1e-3)
    assert np.allclose(table["x_um"], (512 + 2 * shapes.col) * 0.25, atol=1e-4)
    assert np.allclose(table["area_um2"], shapes.area_px * 0.25)
    assert np.allclose(table["perimeter_um"], shapes.perimeter * 0.5)
    assert np.allclose(table["major_axis_um"], shapes.major_axis * 0.5)


def test_without_a_resolution_lengths_are_pixels_of_full_resolution(result, tmp_path):
    plain = result_of(random_scene(KINDS[0], 3, SHAPE), slide(unit="px", spacing=(1, 1, 1)))
    table = pd.read_parquet(write_cells(plain, tmp_path / "c.parquet", SinkOptions()))
    assert not [name for name in table if name.endswith(("_um", "_um2"))]
    assert np.allclose(table["area_px"], 4 * plain.objects.instances.area)


def test_the_csv_says_the_same(result, tmp_path):
    table = pd.read_parquet(write_cells(result, tmp_path / "c.parquet", SinkOptions()))
    text = pd.read_csv(write_cells_csv(result, tmp_path / "c.csv", SinkOptions()))
    assert list(text) == list(table)
    assert list(text["class"]) == list(table["class"])
    for name in table.select_dtypes("number"):
        assert np.allclose(text[name], table[name], equal_nan=True), name


def test_bytes_do_not_depend_on_batches(result, tmp_path):
    whole = result_of(random_scene(KINDS[0], 3, SHAPE), slide(), classes=result.classes, batch=10**6)
    files = [write_cells(r, tmp_path / f"{i}.parquet", SinkOptions()).read_bytes() for i, r in enumerate((result, whole))]
    assert files[0] == files[1]


def test_every_column_is_documented_with_its_type(result, tmp_path, monkeypatch):
    written = [(name, kind) for name, kind, _ in tables("cells.md", "Columns")[1:]]
    fields = schema(result, Extras(region=lambda x, y: np.zeros(len(x), np.int32)))
    assert written == [(f.name, str(f.type)) for f in fields]
    write_cells(result, tmp_path / "slide_cells.parquet", SinkOptions())
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks("cells.md", "python")
    names = {}
    exec(block, names)
    assert 0 < len(names["large"]) < result.count


def test_extras_are_columns(result, tmp_path):
    n = result.count
    extras = Extras(
        columns={"mean_dapi": np.arange(n, dtype=np.float32), "positive": np.arange(n) % 3 == 0},
        region=lambda x, y: (y > 400).astype(np.int64) + 1,
    )
    table = pd.read_parquet(write_cells(result, tmp_path / "c.parquet", SinkOptions(), extras=extras))
    assert list(table["mean_dapi"]) == list(range(n))
    assert table["positive"].dtype == bool
    assert list(table["region"]) == list((table["y_px"] > 400) + 1)


def test_extras_may_lie_in_a_file(result, tmp_path):
    values = np.memmap(tmp_path / "dapi.bin", np.float32, "w+", shape=(result.count,))
    values[:] = 7
    table = pd.read_parquet(write_cells(result, tmp_path / "c.parquet", SinkOptions(), extras=Extras(columns={"dapi": values})))
    assert set(table["dapi"]) == {7}


@pytest.mark.parametrize("columns", [{"score": np.zeros(3)}, {"names": np.array(["a"])}, {"two": np.zeros((3, 2))}])
def test_extras_that_are_no_columns_are_refused(columns):
    with pytest.raises(OutputError):
        Extras(columns=columns)


def test_no_cells_give_an_empty_table_with_all_columns(result, tmp_path):
    path = write_cells(empty_result(slide()), tmp_path / "c.parquet", SinkOptions())
    full = write_cells(result, tmp_path / "d.parquet", SinkOptions())
    assert len(pd.read_parquet(path)) == 0
    assert pq.read_schema(path).names == pq.read_schema(full).names
    assert len(pd.read_csv(write_cells_csv(empty_result(slide()), tmp_path / "c.csv", SinkOptions()))) == 0


def distances(xy, pieces):
    with NearestNeighbours() as near:
        for piece in np.array_split(xy, pieces):
            near.add(piece)
        near.finish()
        return np.concatenate([near.of(i, min(i + 97, len(xy))) for i in range(0, len(xy), 97)])


@pytest.mark.parametrize("arrangement", ["even", "two far clusters", "outliers", "line", "doubles"])
def test_neighbours_are_the_nearest_of_all(arrangement, monkeypatch):
    monkeypatch.setattr(cells_near, "_CHUNK", 150)  # many chunks, without a million cells
    rng = np.random.default_rng(1)
    xy = rng.uniform(0, 1000, (2000, 2))
    if arrangement == "two far clusters":
        xy[1000:] += [0, 1e6]
    if arrangement == "outliers":
        xy[::199] += rng.normal(0, 5e4, xy[::199].shape)
    if arrangement == "line":
        xy[:, 1] = 3
    if arrangement == "doubles":
        xy[1::2] = xy[::2]
    xy = xy[np.argsort(xy[:, 1], kind="stable")] + [0, 1]
    assert np.allclose(distances(xy, 7), cKDTree(xy).query(xy, k=2)[0][:, 1])


def test_one_cell_is_infinitely_far_from_the_next():
    assert distances(np.zeros((1, 2)), 1)[0] == np.inf
