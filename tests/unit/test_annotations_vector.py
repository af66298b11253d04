"""Polygons as masks: equal to rasterio's one by one, and our own files give back what was written."""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from scipy.spatial import Voronoi
from support_annotations import SHARED, at_pixels, blobs, polygon_file, utm_frame, whole_masks
from support_results import result_of

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.io import annotations_scanline, annotations_vector
from seggeo.io.annotations import read_annotations
from seggeo.io.annotations_vector import read_area
from seggeo.output.labels import write_cog
from seggeo.output.vector import write_flatgeobuf, write_geojson, write_geoparquet, write_gpkg
from seggeo.protocols import SinkOptions

SINKS = {
    "r.gpkg": write_gpkg, "r.fgb": write_flatgeobuf, "r.parquet": write_geoparquet, "r.geojson": write_geojson,
    "r.geojson.gz": write_geojson,
}  # fmt: skip
FRAMES = {
    "utm": (32633, Affine(10, 0, 300_000, 0, -10, 6_700_000)),
    "rotated": (32633, Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
    "south up": (32633, Affine(10, 0, 300_000, 0, 10, 6_600_000)),
    "degrees": (4326, Affine(1e-3, 0, 20, 0, -1e-3, 60)),
    "degrees across 180": (4326, Affine(1e-2, 0, 179.4, 0, -1e-2, 60)),
    "utm across 180": (32660, Affine(100, 0, 662_000, 0, -100, 6_660_000)),
    "pixels": (None, Affine.identity()),
}
H, W = 60, 80
FRAME = utm_frame(H, W)


def stars(count, seed):
    """Star polygons in `(col, row)` pixels, many of them over each other and over the sides, one in three with a hole."""
    rng = np.random.default_rng(seed)
    shapes = []
    for i in range(count):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        radius = rng.uniform(1, 25, len(angle))
        xy = rng.uniform(-10, 90, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        shape = shapely.make_valid(shapely.Polygon(xy))
        hole = shapely.box(*(rng.uniform(0, 70, 2).repeat(2)[[0, 2, 1, 3]] + np.array([0, 0, 7.3, 4.1])))
        shapes.append(shapely.difference(shape, hole) if i % 3 == 0 else shape)
    return [s for s in shapes if s.area > 0.1]


def burnt(shape):
    return rasterize([(shape, 1)], out_shape=(H, W), dtype="uint8").astype(bool)


@pytest.mark.parametrize("crossings", [50, 10**6])
@pytest.mark.parametrize("portion", [7, 10**6])
def test_every_mask_is_rasterios(tmp_path, monkeypatch, crossings, portion):
    monkeypatch.setattr(annotations_scanline, "_CROSSINGS", crossings)
    monkeypatch.setattr(annotations_vector, "_PORTION", portion)
    shapes = stars(150, seed=0)
    path = polygon_file(tmp_path / "p.gpkg", [at_pixels(s, FRAME) for s in shapes], id=np.arange(len(shapes)) * 7)
    wanted = np.stack([burnt(s) for s in shapes])
    filled = wanted.any(axis=(1, 2))

    found = read_annotations(path, FRAME)

    np.testing.assert_array_equal(found.ids, np.flatnonzero(filled) * 7)
    np.testing.assert_array_equal(whole_masks(found.instances, H, W), wanted[filled])
    away = np.array([not shapely.box(*s.bounds).intersects(shapely.box(0, 0, W, H)) for s in shapes])
    assert found.outside == away.sum()
    assert found.tiny == (~filled & ~away).sum()
    assert not found.exclusive


def test_neighbours_share_no_pixel_and_leave_none_out(tmp_path):
    points = np.random.default_rng(3).uniform(-20, 110, (300, 2))
    cells = Voronoi(points)
    polygons = [shapely.Polygon(cells.vertices[r]) for r in (cells.regions[i] for i in cells.point_region) if r and -1 not in r]
    path = polygon_file(tmp_path / "p.fgb", [at_pixels(p, FRAME) for p in polygons])

    masks = whole_masks(read_annotations(path, FRAME).instances, H, W)

    np.testing.assert_array_equal(masks.sum(axis=0), 1)


def test_a_centre_on_an_edge_belongs_to_one_side():
    left, right = shapely.box(1.5, 1.5, 3.5, 3.5), shapely.box(3.5, 1.5, 5.5, 3.5)
    ring = np.concatenate([shapely.get_coordinates(b) for b in (left, right)])
    outlines = annotations_scanline.Outlines(
        row=ring[:, 1], col=ring[:, 0], ring=np.array([0, 5, 10]), polygon=np.arange(3), owner=np.arange(3)
    )

    found, kept = annotations_scanline.fill(outlines, 8, 8)

    assert kept.tolist() == [0, 1]
    assert found.box.tolist() == [[1, 1, 3, 3], [1, 3, 3, 5]]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", SINKS)
def test_our_own_files_give_back_what_was_written(tmp_path, name, frame):
    code, transform = FRAMES[frame]
    labels = blobs(60, 70, seed=4)
    grid = Frame(height=60, width=70, transform=transform, crs=None if code is None else pyproj.CRS(code).to_wkt())
    result = result_of(labels, grid, classes=("b", "a"))
    written = result.objects

    found = read_annotations(SINKS[name](result, tmp_path / name, SinkOptions()), grid)

    order = np.argsort(found.ids)
    np.testing.assert_array_equal(found.ids[order], written.id)
    np.testing.assert_array_equal(whole_masks(found.instances.take(order), 60, 70), whole_masks(written.instances, 60, 70))
    np.testing.assert_allclose(found.instances.score[order], written.instances.score, atol=1e-6)
    assert [found.classes[i] for i in found.instances.label[order]] == [("b", "a")[i] for i in written.instances.label]
    assert found.scored
    assert (found.outside, found.tiny) == (0, 0)


def test_our_own_label_raster_gives_back_what_was_written(tmp_path):
    result = result_of(blobs(60, 70, seed=4), utm_frame(60, 70))

    found = read_annotations(write_cog(result, tmp_path / "r.tif", SinkOptions()), utm_frame(60, 70))

    np.testing.assert_array_equal(found.ids, result.objects.id)
    np.testing.assert_array_equal(found.instances.runs, result.objects.instances.runs)


@pytest.mark.parametrize("name", ["p.gpkg", "p.fgb", "p.geojson", "p.shp", "p.parquet"])
def test_every_format_gives_the_same_masks_and_classes(tmp_path, name):
    shapes = [at_pixels(s, FRAME) for s in stars(30, seed=5)]
    kinds = ["roof" if i % 2 else "tree" for i in range(len(shapes))]
    table = gpd.GeoDataFrame({"id": range(len(shapes)), "kind": kinds, "geometry": shapes}, crs="EPSG:32633")
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_file(tmp_path / name)

    found = read_annotations(tmp_path / name, FRAME, attribute="kind")
    plain = read_annotations(polygon_file(tmp_path / "plain.gpkg", shapes), FRAME)

    order = np.argsort(found.ids)
    np.testing.assert_array_equal(whole_masks(found.instances.take(order), H, W), whole_masks(plain.instances, H, W))
    assert found.classes == ("roof", "tree")
    assert plain.classes == ("object",)
    assert not found.scored


@pytest.mark.parametrize("epsg", [4326, 3857, 32632])
def test_polygons_of_another_crs_are_brought_into_the_frames(tmp_path, epsg):
    shapes = gpd.GeoSeries([at_pixels(s, FRAME) for s in stars(60, seed=6)], crs=32633)
    here = read_annotations(polygon_file(tmp_path / "a.gpkg", list(shapes)), FRAME)
    there = polygon_file(tmp_path / "b.gpkg", list(shapes.to_crs(epsg)), crs=f"EPSG:{epsg}")

    found = read_annotations(there, FRAME)

    np.testing.assert_array_equal(found.instances.box, here.instances.box)
    assert (whole_masks(found.instances, H, W) != whole_masks(here.instances, H, W)).sum() <= 2
    assert found.reprojected == pyproj.CRS(epsg).name
    assert not here.reprojected


def test_a_bow_tie_is_its_two_triangles(tmp_path):
    tie = shapely.Polygon([(10.2, 10), (30, 30.3), (30, 9.1), (10, 30)])
    path = polygon_file(tmp_path / "p.gpkg", [at_pixels(tie, FRAME)])

    masks = whole_masks(read_annotations(path, FRAME).instances, H, W)

    np.testing.assert_array_equal(masks[0], burnt(shapely.make_valid(tie)))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_geojson_without_crs_over_an_image_without_crs_is_in_pixels(tmp_path):
    shapes = stars(20, seed=7)
    gpd.GeoSeries(shapes).to_file(tmp_path / "p.geojson")
    frame = Frame(height=H, width=W)

    masks = whole_masks(read_annotations(tmp_path / "p.geojson", frame).instances, H, W)

    np.testing.assert_array_equal(masks, [m for m in map(burnt, shapes) if m.any()])


def test_scores_outside_0_to_1_are_no_scores(tmp_path):
    shapes = [at_pixels(shapely.box(3, 3, 9, 9), FRAME)] * 2

    percent = read_annotations(polygon_file(tmp_path / "a.gpkg", shapes, score=[50.0, 90.0]), FRAME)
    share = read_annotations(polygon_file(tmp_path / "b.gpkg", shapes, score=[0.5, 0.9]), FRAME)

    assert not percent.scored
    assert share.scored
    np.testing.assert_allclose(share.instances.score, [0.5, 0.9])


def test_numbers_as_classes_are_named_in_their_order(tmp_path):
    shapes = [at_pixels(shapely.box(3 * i, 3, 3 * i + 2, 9), FRAME) for i in range(3)]

    found = read_annotations(polygon_file(tmp_path / "a.gpkg", shapes, code=[10, 9, 10]), FRAME, attribute="code")

    assert found.classes == ("9", "10")
    assert found.instances.label.tolist() == [1, 0, 1]


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_does_not_fit_is_refused(tmp_path):
    box = [at_pixels(shapely.box(3, 3, 9, 9), FRAME)]
    path = polygon_file(tmp_path / "a.gpkg", box, kind=["roof"], other=[1])
    with pytest.raises(ConfigError, match="columns are: kind, other"):
        read_annotations(path, FRAME, attribute="klass")
    with pytest.raises(ConfigError, match="need an image"):
        read_annotations(path)
    with pytest.raises(ConfigError, match="the image has no CRS"):
        read_annotations(path, Frame(height=H, width=W))
    with pytest.raises(ConfigError, match="the vector file has no CRS"):
        read_annotations(polygon_file(tmp_path / "b.gpkg", box, crs=None), FRAME)
    with pytest.raises(ConfigError, match="empty for 1 of 2 objects"):
        read_annotations(polygon_file(tmp_path / "c.gpkg", box * 2, kind=["roof", None]), FRAME, attribute="kind")
    with pytest.raises(SourceError, match="holds no polygons"):
        read_annotations(polygon_file(tmp_path / "d.gpkg", [shapely.Point(5e5, 5.2e6)]), FRAME)
    polygon_file(path, box, layer="more")
    with pytest.raises(ConfigError, match="2 layers of shapes"):
        read_annotations(path, FRAME)
    (tmp_path / "e.gpkg").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError, match="cannot be read"):
        read_annotations(tmp_path / "e.gpkg", FRAME)


def test_an_area_is_the_union_of_its_polygons(tmp_path):
    shapes = stars(12, seed=8)
    path = polygon_file(tmp_path / "a.gpkg", [at_pixels(s, FRAME) for s in shapes])
    inside = np.zeros((H, W), bool)

    spans = read_area(path, FRAME)

    for row, start, stop in zip(spans.row, spans.start, spans.stop, strict=True):
        inside[row, start:stop] = True
    np.testing.assert_array_equal(inside, np.any([burnt(s) for s in shapes], axis=0))
    assert (np.diff(spans.row) >= 0).all()
    far = polygon_file(tmp_path / "b.gpkg", [shapely.box(0, 0, 9, 9)])
    with pytest.raises(ConfigError, match="does not meet the image"):
        read_area(far, FRAME)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
def test_hand_drawn_footprints_equal_those_burnt_by_rasterio():
    from seggeo.config import Reading
    from seggeo.io import open_raster

    folder = SHARED / "overhead" / "kampala"
    with open_raster(str(folder / "kampala_res_z21.tif"), Reading(), native=False) as source:
        frame = source.frame
    found = read_annotations(folder / "kampala_res_buildings.geojson", frame)
    world = gpd.read_file(folder / "kampala_res_buildings.geojson").to_crs(frame.crs)

    shape = frame.height, frame.width
    wanted = rasterize(world.geometry, out_shape=shape, transform=frame.transform, dtype="uint8", merge_alg=MergeAlg.add)
    layers = np.zeros(shape, np.uint8)
    for box, mask in found.instances:
        layers[box[0] : box[2], box[1] : box[3]] += mask

    assert len(found) == 64
    assert (layers != wanted).sum() <= 2
