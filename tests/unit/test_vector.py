"""Vector files read back by others: the same objects everywhere, the same bytes every time, nothing left after a failure."""

import gzip
import json
import resource
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.features import shapes
from scipy import ndimage
from support_results import ListResult, empty_result, objects_of, result_of

from seggeo.errors import OutputError, ResourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output import features, style
from seggeo.output.vector import write_flatgeobuf, write_geojson, write_geoparquet, write_gpkg
from seggeo.protocols import SinkOptions

SINKS = {
    "gpkg": write_gpkg,
    "fgb": write_flatgeobuf,
    "parquet": write_geoparquet,
    "geojson": write_geojson,
    "geojson.gz": write_geojson,
}
SIDE = 120
FRAMES = {
    "utm": (32633, Affine(10, 0, 300_000, 0, -10, 6_700_000)),
    "web mercator": (3857, Affine(5, 0, 1e6, 0, -5, 8e6)),
    "degrees": (4326, Affine(1e-3, 0, 20, 0, -1e-3, 60)),
    "rotated": (32633, Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
    "south up": (32633, Affine(10, 0, 300_000, 0, 10, 6_600_000)),
    "degrees across 180": (4326, Affine(1e-2, 0, 179.4, 0, -1e-2, 60)),
    "utm across 180": (32660, Affine(100, 0, 662_000, 0, -100, 6_660_000)),
    "pixels": (None, Affine.identity()),
}
CLASSES = ('a "house" & <b>', "=1+1\u0001", "Bäume 🌲", "")


def frame_of(name):
    code, transform = FRAMES[name]
    return Frame(height=SIDE, width=SIDE, transform=transform, crs=None if code is None else pyproj.CRS(code).to_wkt())


def labels():
    field = ndimage.gaussian_filter(np.random.default_rng(2).random((SIDE, SIDE)), 1.5)
    return ndimage.label(field > np.quantile(field, 0.6))[0].astype(np.int32) % 60


def result(name="utm", **fields) -> ListResult:
    return result_of(labels(), frame_of(name), classes=CLASSES, batch=17, **fields)


def read(path, kind):
    if kind == "parquet":
        return gpd.read_parquet(path).sort_values("id", ignore_index=True)
    layer = {"layer": "objects"} if kind in ("gpkg", "fgb") else {}
    return gpd.read_file(path, **layer).sort_values("id", ignore_index=True)


def write(kind, what, folder, options=None):
    return SINKS[kind](what, folder / f"scene.{kind}", options or SinkOptions())


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("kind", ["gpkg", "fgb", "parquet"])
def test_files_hold_what_gdal_polygonizes(kind, name, tmp_path):
    what = result(name)
    table = read(write(kind, what, tmp_path), kind)
    theirs = {i: [] for i in range(1, what.count + 1)}
    for geometry, value in shapes(labels(), mask=labels() > 0, connectivity=4, transform=what.frame.transform):
        theirs[int(value)].append(shapely.geometry.shape(geometry))

    assert table["id"].tolist() == list(range(1, what.count + 1))
    assert table.geometry.is_valid.all()
    assert set(table.geom_type) == {"MultiPolygon"}
    for ours, parts in zip(table.geometry, theirs.values(), strict=True):
        assert len(ours.geoms) == len(parts)
        assert ours.symmetric_difference(shapely.MultiPolygon(parts)).area <= 1e-9 * ours.area
    if what.frame.crs is not None:
        assert pyproj.CRS(table.crs) == pyproj.CRS(what.frame.crs)


@pytest.mark.parametrize("kind", ["gpkg", "fgb", "parquet", "geojson"])
def test_attributes_are_the_objects(kind, tmp_path):
    what = result()
    table = read(write(kind, what, tmp_path), kind)
    objects, instances = what.objects, what.objects.instances

    assert table["class"].tolist() == [CLASSES[i] for i in instances.label]
    assert np.array_equal(table["score"].astype(np.float32), instances.score)
    assert np.array_equal(table["area_px"], instances.area)
    assert np.array_equal(table["n_tiles"], objects.n_tiles)
    assert np.array_equal(table["cut"].astype(bool), objects.cut)
    assert np.array_equal(table["touches_edge"].astype(bool), objects.touches_edge)
    assert table["area_m2"].to_numpy() == pytest.approx(instances.area * 100, rel=2e-3)  # UTM is true to scale within 0.1 %
    if kind not in ("geojson", "parquet"):
        assert table[["xmin", "ymin", "xmax", "ymax"]].to_numpy() == pytest.approx(table.bounds.to_numpy())
    if kind != "geojson":
        assert shapely.get_coordinates(table.centroid) == pytest.approx(table[["cx", "cy"]].to_numpy(), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in FRAMES if n != "pixels"])
def test_pixels_come_back_from_files(name, tmp_path):
    what = result(name)
    table = read(write("gpkg", what, tmp_path), "gpkg")
    rows, cols = what.frame.world_to_pixel(*shapely.get_coordinates(table.geometry).T)

    assert np.abs(rows - np.rint(rows)).max() < 1e-6
    assert np.abs(cols - np.rint(cols)).max() < 1e-6


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("name", ["utm", "pixels", "utm across 180"])
def test_same_result_same_bytes_whatever_the_batches(kind, name, tmp_path):
    first = write(kind, result(name), tmp_path).read_bytes()
    other = tmp_path / "other"
    other.mkdir()

    assert write(kind, result(name), other).read_bytes() == first
    assert write(kind, replace(result(name), batch=10_000), tmp_path).read_bytes() == first


@pytest.mark.parametrize("limit", ["_OBJECTS", "_RUNS"])
def test_groups_do_not_depend_on_batches(limit, monkeypatch):
    """A limit on objects or runs cuts the stream at the same places however it comes."""
    monkeypatch.setattr(features, limit, 10)
    groups = [[f.objects.id.tolist() for f in features.iter_features(replace(result(), batch=b))] for b in (1, 7, 10_000)]

    assert sum(groups[0], []) == list(range(1, result().count + 1))
    assert len(groups[0]) > 5
    assert groups[0] == groups[1] == groups[2]


@pytest.mark.parametrize("name", ["utm", "pixels"])
@pytest.mark.parametrize("kind", SINKS)
def test_no_objects_make_a_valid_empty_file(kind, name, tmp_path):
    path = write(kind, empty_result(frame_of(name), classes=CLASSES), tmp_path)
    if kind.startswith("geojson"):
        opened = gzip.open if kind.endswith("gz") else open
        with opened(path, "rt", encoding="utf-8") as file:
            assert json.load(file)["features"] == []
        return
    table = read(path, kind)

    assert len(table) == 0
    assert {"id", "class", "score", "area_m2", "perimeter_m", "area_px", "n_tiles", "cut", "touches_edge", "cx", "cy"} <= set(
        table
    )
    if name == "utm":
        assert table.crs.to_epsg() == 32633


def test_nothing_but_the_file_stays(tmp_path):
    (tmp_path / "scratch").mkdir()
    for kind in SINKS:
        write(kind, result(), tmp_path, SinkOptions(scratch=tmp_path / "scratch"))

    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["scratch", *(f"scene.{kind}" for kind in SINKS)])


def test_geopackage_has_an_index_a_style_and_a_provenance(tmp_path):
    path = write("gpkg", result(), tmp_path)
    with sqlite3.connect(path) as base:
        row = base.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, styleSLD FROM layer_styles"
        ).fetchall()
        index = base.execute("SELECT count(*) FROM rtree_objects_geom").fetchone()
        check = base.execute("PRAGMA integrity_check").fetchone()
    base.close()
    ((table, geometry, is_default, qml, sld),) = row

    assert (table, geometry, is_default) == ("objects", "geom", 1)
    symbols = ElementTree.fromstring(qml).find("renderer-v2")
    assert [c.get("value") for c in symbols.find("categories")] == [style.printable(name) for name in CLASSES]
    assert len(symbols.find("symbols")) == len(CLASSES)
    assert len(ElementTree.fromstring(sld).findall(".//{*}Rule")) == len(CLASSES)
    assert (index, check) == ((result().count,), ("ok",))
    assert json.loads(pyogrio.read_info(path, layer="objects")["layer_metadata"]["SEGGEO_PROVENANCE"]) == result().provenance
    window = pyogrio.read_dataframe(path, layer="objects", bbox=(300_000, 6_699_900, 300_100, 6_700_000))
    assert 0 < len(window) < result().count


def test_the_hundred_first_classes_have_colours_of_their_own():
    assert len({style.colour_of(i) for i in range(100)}) == 100


def test_geopackage_without_crs_is_undefined_cartesian(tmp_path):
    path = write("gpkg", result("pixels"), tmp_path)
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchone() == (-1,)
    base.close()
    table = read(path, "gpkg")
    assert table["area_m2"].isna().all()
    assert table["perimeter_m"].isna().all()
    assert np.array_equal(table["area_px"], table.area)
    assert np.array_equal(table["perimeter_px"], table.length)


def test_flatgeobuf_has_an_index_and_a_provenance(tmp_path):
    path = write("fgb", result(), tmp_path)
    info = pyogrio.read_info(path)

    assert info["capabilities"]["fast_spatial_filter"]
    assert json.loads(info["layer_metadata"]["DESCRIPTION"]) == result().provenance


def test_geoparquet_metadata_and_bbox_filter(tmp_path):
    path = write("parquet", result("web mercator"), tmp_path)
    meta = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = meta["columns"][meta["primary_column"]]

    assert (meta["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", ["MultiPolygon"])
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 3857}
    whole = gpd.read_parquet(path)
    box = tuple(np.array([1, 1, -1, -1]) * 100 + whole.total_bounds)
    some = gpd.read_parquet(path, bbox=box)
    assert 0 < len(some) < len(whole)
    assert (
        some["id"].tolist()
        == whole["id"][shapely.intersects(shapely.box(*whole.bounds.T.to_numpy()), shapely.box(*box))].tolist()
    )
    assert all(shapely.is_ccw(p.exterior) for g in whole.geometry for p in g.geoms)
    assert not any(shapely.is_ccw(h) for g in whole.geometry for p in g.geoms for h in p.interiors)


@pytest.mark.parametrize("name", [n for n in FRAMES if n != "pixels"])
def test_geojson_is_rfc_7946(name, tmp_path):
    what = result(name)
    collection = json.loads(write("geojson", what, tmp_path).read_text(encoding="utf-8"))
    geometries = [shapely.geometry.shape(f["geometry"]) for f in collection["features"]]
    flat = [p for g in geometries for p in getattr(g, "geoms", [g])]
    xy = shapely.get_coordinates(geometries)
    to_world = pyproj.Transformer.from_crs(4326, what.frame.crs, always_xy=True)
    area, lengths = zip(*(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(g) for g in geometries), strict=True)

    assert "crs" not in collection
    assert shapely.is_valid(geometries).all()
    assert np.abs(xy).max(axis=0)[0] <= 180
    assert max(np.abs(lengths)) < 1e6  # nothing runs around the earth
    assert all(shapely.is_ccw(p.exterior) and not any(shapely.is_ccw(h) for h in p.interiors) for p in flat)
    assert np.abs(area) == pytest.approx([f["properties"]["area_m2"] for f in collection["features"]], rel=1e-3)
    if "180" in name:
        assert (xy[:, 0] > 179).any()
        assert (xy[:, 0] < -179).any()
        crossing = [f["properties"]["xmin"] > f["properties"]["xmax"] for f in collection["features"]]
        assert 0 < sum(crossing) < len(crossing)
    else:
        rows, cols = what.frame.world_to_pixel(*to_world.transform(*xy.T))
        assert max(np.abs(rows - np.rint(rows)).max(), np.abs(cols - np.rint(cols)).max()) < 2e-3


def test_an_object_around_the_pole_reaches_it(tmp_path):
    """A disc and a ring around the south pole."""
    y, x = np.mgrid[-50:50, -50:50] + 0.5
    radius = np.hypot(x, y)
    image = np.select([radius < 20, (radius > 30) & (radius < 45)], [1, 2])
    frame = Frame(height=100, width=100, transform=Affine(5000, 0, -250_000, 0, -5000, 250_000), crs=pyproj.CRS(3031).to_wkt())
    table = read(write("geojson", result_of(image.astype(np.int32), frame), tmp_path), "geojson")

    assert table.geometry.is_valid.all()
    assert table.total_bounds[[0, 2]].tolist() == [-180, 180]
    assert table.bounds["miny"][0] == -90
    assert table.geometry.contains(shapely.Point(10, -89.99)).tolist() == [True, False]
    plane = table.to_crs("+proj=cea")  # equal area: closing over the pole adds nothing
    assert plane.area.to_numpy() == pytest.approx(table["area_m2"].to_numpy(), rel=0.01)


def test_an_object_off_the_earth_has_no_geometry_in_geojson(tmp_path):
    """The corner of a picture of the whole disc of the earth from space."""
    crs = pyproj.CRS("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    image = np.zeros((100, 100), np.int32)
    image[:3, :3], image[50:60, 50:60] = 1, 2
    frame = Frame(height=100, width=100, transform=Affine(120_000, 0, -6e6, 0, -120_000, 6e6), crs=crs.to_wkt())
    table = read(write("geojson", result_of(image, frame), tmp_path), "geojson")

    assert table.geometry.isna().tolist() == [True, False]
    assert table["area_m2"].isna().tolist() == [True, False]


def test_geojson_without_crs_says_so(tmp_path):
    collection = json.loads(write("geojson", result("pixels"), tmp_path).read_text(encoding="utf-8"))

    assert "no coordinate reference system" in collection["seggeo"]["coordinates"]
    assert collection["seggeo"]["provenance"] == result().provenance
    assert collection["features"][0]["properties"]["area_m2"] is None


def test_gzipped_geojson_is_the_same_text(tmp_path):
    plain, packed = write("geojson", result(), tmp_path), write("geojson.gz", result(), tmp_path)

    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


@pytest.mark.parametrize("kind", ["gpkg", "geojson"])
def test_simplification_is_in_metres(kind, tmp_path):
    """0.9 pixels of 111 m by 56 m: staircases go, areas recorded stay those of the masks."""
    exact = read(write(kind, result("degrees"), tmp_path), kind)
    simple = read(write(kind, result("degrees"), tmp_path, SinkOptions(simplify_m=50.0)), kind)

    assert simple.geometry.is_valid.all()
    assert 0.3 < shapely.get_num_coordinates(simple.geometry).sum() / shapely.get_num_coordinates(exact.geometry).sum() < 0.9
    assert np.array_equal(simple["area_m2"], exact["area_m2"])
    assert (simple["perimeter_m"] <= exact["perimeter_m"] * (1 + 1e-9)).all()


def test_slices_of_a_volume_are_told_apart(tmp_path):
    frame = Frame(height=4, width=4, depth=3)
    masks = Instances.from_masks([np.ones((2, 2), bool)] * 2)
    instances = Instances.from_spans(masks.spans(), score=masks.score, label=masks.label, z=[0, 2])
    table = read(write("gpkg", ListResult(objects_of(instances, frame), frame), tmp_path), "gpkg")

    assert table["z"].tolist() == [0, 2]


@pytest.mark.parametrize("kind", SINKS)
def test_a_missing_folder_is_refused(kind, tmp_path):
    with pytest.raises(OutputError, match="could not be written") as caught:
        write(kind, result(), tmp_path / "no" / "such")
    assert caught.value.exit_code == 5


@dataclass(frozen=True, slots=True)
class BrokenResult(ListResult):
    def iter_objects(self):
        yield from list(ListResult.iter_objects(self))[:2]
        raise ArithmeticError("part 3 is gone")


@pytest.mark.parametrize("kind", SINKS)
def test_an_error_on_the_way_comes_through_and_leaves_the_old_file(kind, tmp_path):
    path = tmp_path / f"scene.{kind}"
    path.write_text("precious")
    good = result()
    broken = BrokenResult(good.objects, good.frame, CLASSES, good.provenance, True, 10)
    with pytest.raises(ArithmeticError, match="part 3"):
        write(kind, broken, tmp_path)

    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


FULL_DISK = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
from pathlib import Path
import test_vector
from seggeo.errors import ResourceError
import numpy as np
from support_results import result_of
big = result_of(np.arange(1, 160_001).reshape(400, 400), test_vector.frame_of("utm"))
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    test_vector.write(sys.argv[2], big, Path(sys.argv[3]))
except ResourceError as error:
    print(error.exit_code, "full" in error.why)
"""


@pytest.mark.parametrize("kind", SINKS)
def test_a_full_disk_is_said_and_leaves_nothing(kind, tmp_path):
    """Files may grow to 1 MiB only, which the system reports the way it reports a full disk."""
    code = FULL_DISK.replace("import resource", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import resource")
    where = [str(Path(__file__).parent), kind, str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *where], capture_output=True, text=True, check=False)

    assert done.stdout.split() == [str(ResourceError.exit_code), "True"], done.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20
