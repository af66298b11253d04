"""QuPath's GeoJSON keeps QuPath's contract, and its outlines are the masks, at full resolution."""

import gzip
import json
import uuid

import geopandas as gpd
import numpy as np
import pytest
import rasterio.features
from affine import Affine
from support_qupath import Refused, read_qupath
from support_results import empty_result, result_of
from support_scenes import KINDS, random_scene

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output.cells_table import Extras
from seggeo.output.features import provenance_text
from seggeo.output.qupath import write_qupath
from seggeo.protocols import SinkOptions

SCALES = [Affine.identity(), Affine(2, 0, 512, 0, 2, 256), Affine(1.983, 0, 511.4, 0, 1.983, 7.25), Affine(0, 4, 9, 4, 0, 3)]


def slide(shape, transform=SCALES[1]):
    return Frame(height=shape[0], width=shape[1], transform=transform, spacing=(1, 0.5, 0.5), unit="um", scale=2.0)


def cells(seed=3, shape=(170, 210), **fields):
    labels = random_scene(KINDS[seed % len(KINDS)], seed, shape)
    return labels, result_of(labels, slide(shape), classes=("nucleus", "lympho % {cyte} \"ü\""), **fields)  # fmt: skip


@pytest.mark.parametrize("seed", range(len(KINDS)))
@pytest.mark.parametrize("transform", SCALES)
def test_outlines_rasterised_again_are_the_masks(tmp_path, seed, transform):
    labels = random_scene(KINDS[seed], seed, (140, 150))
    path = write_qupath(result_of(labels, slide(labels.shape, transform), batch=7), tmp_path / "c.geojson.gz", SinkOptions())
    features = read_qupath(path)
    drawn = rasterio.features.rasterize(
        [(f["geometry"], i + 1) for i, f in enumerate(features)], out_shape=labels.shape, transform=transform, dtype="int32"
    )
    # Ids go up in order of the labels, which need not be consecutive.
    expected = np.searchsorted(np.unique(labels[labels > 0]), labels) + 1
    assert np.array_equal(drawn, np.where(labels > 0, expected, 0))


def test_geopandas_reads_areas_and_measurements(tmp_path):
    labels, result = cells()
    path = write_qupath(result, tmp_path / "c.geojson", SinkOptions())
    table = gpd.read_file(path).set_crs(None, allow_override=True)  # GeoJSON readers take pixels for degrees
    areas = result.objects.instances.area
    assert table.geometry.is_valid.all()
    assert np.allclose(table.geometry.area, areas * 4)
    measured = [m if isinstance(m, dict) else json.loads(m) for m in table["measurements"]]
    assert np.allclose([m["Area µm^2"] for m in measured], areas * 0.25, rtol=1e-4)
    assert set(table["objectType"]) == {"detection"}


def test_integers_where_the_scale_allows_and_hundredths_elsewhere(tmp_path):
    labels, whole = cells()
    part = result_of(labels, slide(labels.shape, SCALES[2]))
    texts = [write_qupath(r, tmp_path / "x.geojson", SinkOptions()).read_text() for r in (whole, part)]
    rings = [json.loads(t)["features"][0]["geometry"]["coordinates"] for t in texts]
    assert isinstance(rings[0][0][0][0], int)
    assert all(round(x, 2) == x for x, _ in rings[1][0])


def test_ids_are_uuids_of_job_and_cell_and_bytes_repeat(tmp_path):
    _, result = cells(batch=11)
    _, other = cells(provenance={"job": "another"})
    paths = [write_qupath(r, tmp_path / f"{i}.geojson.gz", SinkOptions()) for i, r in enumerate((result, result, other))]
    first = [f["id"] for f in read_qupath(paths[0])]
    space = uuid.uuid5(uuid.NAMESPACE_URL, f"seggeo:{provenance_text(result)}")
    assert first == [str(uuid.uuid5(space, str(i))) for i in result.objects.id]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert set(first).isdisjoint(f["id"] for f in read_qupath(paths[2]))


def test_classes_with_odd_names_keep_them_and_have_colours(tmp_path):
    _, result = cells()
    features = read_qupath(write_qupath(result, tmp_path / "c.geojson.gz", SinkOptions()))
    kinds = [f["properties"]["classification"] for f in features]
    assert [k["name"] for k in kinds] == [result.classes[i] for i in result.objects.instances.label]
    assert len({tuple(k["color"]) for k in kinds}) == 2


def test_extras_become_measurements_and_unknown_ones_are_left_out(tmp_path):
    _, result = cells()
    n = result.count
    dab = np.linspace(0, 1, n, dtype=np.float32)
    dab[1] = np.nan
    extras = Extras(
        columns={"dab": dab, "is_hot": dab > 0.5}, titles={"dab": "DAB 100 %: mean"}, positive="is_hot",
        region=lambda x, y: (x > 600).astype(np.int32),
    )  # fmt: skip
    features = read_qupath(write_qupath(result, tmp_path / "c.geojson.gz", SinkOptions(), extras=extras))
    first, second, last = (features[i]["properties"] for i in (0, 1, n - 1))
    assert first["measurements"]["DAB 100 %: mean"] == 0
    assert "DAB 100 %: mean" not in second["measurements"]
    assert last["measurements"]["is_hot"] == 1
    assert {"Region", "is_hot"} <= set(second["measurements"])
    assert first["classification"]["name"].endswith(": Negative")
    assert last["classification"]["name"].endswith(": Positive")


def test_a_lone_cell_has_no_neighbour(tmp_path):
    labels = np.zeros((40, 40), np.int32)
    labels[9:15, 4:9] = 1
    (feature,) = read_qupath(write_qupath(result_of(labels, slide((40, 40))), tmp_path / "c.geojson.gz", SinkOptions()))
    assert "Nearest neighbour µm" not in feature["properties"]["measurements"]
    assert len(feature["properties"]["measurements"]) == 8


def test_no_cells_give_an_empty_collection(tmp_path):
    path = write_qupath(empty_result(slide((50, 60))), tmp_path / "c.geojson.gz", SinkOptions())
    assert read_qupath(path) == []


def test_simplified_outlines_keep_the_contract_and_are_fewer(tmp_path):
    _, result = cells(seed=0)
    sizes = {}
    for tolerance in (0.0, 1.0):
        path = write_qupath(result, tmp_path / "c.geojson", SinkOptions(simplify_m=tolerance))
        sizes[tolerance] = sum(len(json.dumps(f["geometry"])) for f in read_qupath(path))
    assert sizes[1.0] < 0.7 * sizes[0.0]


def test_several_slices_are_refused(tmp_path):
    with pytest.raises(OutputError, match="2 slices"):
        write_qupath(empty_result(Frame(height=9, width=9, depth=2)), tmp_path / "c.geojson", SinkOptions())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"objectType":"detection",', ""), ('"objectType":"detection"', '"objectType":"nucleus"'), ('"id":"', '"id":"x'),
        ('"Score":', '"Score":null,"x":'), ('"Score":0.', '"Score":NaN,"x":0.'), ('"c":-1,"z":0,"t":0', ""),
        ('"FeatureCollection"', '"Features"'), ('"color":[', '"color":[1000,'), ("[[[", "[[[0,0],["),
    ],
)  # fmt: skip
def test_the_validator_refuses_what_qupath_would(tmp_path, old, new):
    _, result = cells()
    path = write_qupath(result, tmp_path / "c.geojson", SinkOptions())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises((Refused, ValueError)):
        read_qupath(path)


def test_gzip_streams_are_plain_gzip(tmp_path):
    _, result = cells()
    packed = write_qupath(result, tmp_path / "c.geojson.gz", SinkOptions())
    plain = write_qupath(result, tmp_path / "c.geojson", SinkOptions())
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
