"""Areas and perimeters on the ellipsoid, against geodesics of densified outlines, whatever the CRS."""

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from scipy import ndimage

from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.measures import Measures, ground_metric, measure
from seggeo.output.polygons import outlines, simplify, to_world

SIDE = 400
FRAMES = {
    "utm": (32633, Affine(10, 0, 300_000, 0, -10, 6_700_000)),
    "utm far from its meridian": (32633, Affine(30, 0, 900_000, 0, -30, 6_700_000)),
    "web mercator, 70 degrees north": (3857, Affine(5, 0, 1e6, 0, -5, 1.1e7)),
    "degrees, 80 north": (4326, Affine(1e-3, 0, 20, 0, -1e-3, 80)),
    "rotated by 30 degrees": (32633, Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
    "degrees, rotated": (4326, Affine.translation(10, 50) @ Affine.rotation(30) @ Affine.scale(1e-4, -1e-4)),
    "south up": (32633, Affine(10, 0, 300_000, 0, 10, 6_600_000)),
    "degrees across the antimeridian": (4326, Affine(1e-3, 0, 179.8, 0, -1e-3, 10)),
    "utm zone 60 across the antimeridian": (32660, Affine(30, 0, 810_000, 0, -30, 2_000_000)),
    "polar": (3031, Affine(5000, 0, -1e6, 0, -5000, 1e6)),
    "equal area": (3035, Affine(5000, 0, 2.5e6, 0, -5000, 5e6)),
    "US survey feet": (2229, Affine(10, 0, 6.4e6, 0, -10, 1.9e6)),
    "whole earth in degrees": (4326, Affine(0.9, 0, -180, 0, -0.45, 90)),
    "whole earth in web mercator": (3857, Affine(100_000, 0, -2e7, 0, -100_000, 2e7)),
}


def frame_of(name):
    code, transform = FRAMES[name]
    return Frame(height=SIDE, width=SIDE, transform=transform, crs=pyproj.CRS(code).to_wkt())


def objects():
    """Blobs of 1 to some hundred pixels, with holes and several parts, and one as large as the frame."""
    field = ndimage.gaussian_filter(np.random.default_rng(7).random((SIDE, SIDE)), 3)
    labels = ndimage.label(field > np.quantile(field, 0.65))[0] % 97
    labels[::30, ::30] = np.arange(200, 200 + 14 * 14).reshape(14, 14)
    return Instances.from_labels(labels)


def sizes(instances, frame) -> Measures:
    pixels = outlines(instances)
    return measure(instances, (pixels, to_world(pixels, frame)), ground_metric(frame), frame)


def truth(geometries, frame):
    """Geodesic area and outline length of world geometries whose edges were cut into short pieces."""
    crs = pyproj.CRS(frame.crs)
    # Shorter than 25 m the sums of a geodesic area lose digits.
    step = max(0.25 * np.sqrt(abs(frame.determinant)), 25.0 if crs.is_projected else 1e-4)
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    cut = shapely.segmentize(geometries, step)
    round_ = shapely.transform(cut, lambda xy: np.stack(to_degrees.transform(*xy.T), axis=1))
    geod = crs.get_geod()
    areas = np.array([abs(geod.geometry_area_perimeter(g)[0]) for g in round_])
    return areas, np.array([geod.geometry_length(g.boundary) for g in round_])


@pytest.mark.parametrize("name", FRAMES)
def test_areas_and_perimeters_are_geodesic(name):
    frame, instances = frame_of(name), objects()
    ours = sizes(instances, frame)
    some = np.arange(0, len(instances), 5)
    area, length = truth(to_world(outlines(instances), frame).to_shapely()[some], frame)

    assert ours.area_m2[some] == pytest.approx(area, rel=1e-4)  # the promise is 1e-3
    assert ours.perimeter_m[some] == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("name", [n for n in FRAMES if "whole" not in n and n != "polar"])
def test_an_object_as_large_as_the_frame(name):
    frame = frame_of(name)
    instances = Instances.from_masks([np.ones((SIDE, SIDE), bool)])
    ours = sizes(instances, frame)
    pixels = outlines(instances)
    area, length = truth(to_world(pixels, frame).to_shapely(), frame)

    assert ours.area_m2 == pytest.approx(area, rel=1e-4)
    assert ours.perimeter_m == pytest.approx(length, rel=1e-4)


def test_the_whole_earth_has_its_area():
    frame = frame_of("whole earth in degrees")
    ours = sizes(Instances.from_masks([np.ones((SIDE, SIDE), bool)]), frame)

    assert ours.area_m2 == pytest.approx(5.10065622e14, rel=1e-4)


def test_parts_add_up():
    """Areas of tiles of an object are the object's: small and large objects are measured on one scale."""
    frame = frame_of("web mercator, 70 degrees north")
    whole = sizes(Instances.from_masks([np.ones((SIDE, SIDE), bool)]), frame).area_m2[0]
    tiles = np.kron(np.arange(1, 1601).reshape(40, 40), np.ones((10, 10), np.int64))

    assert sizes(Instances.from_labels(tiles), frame).area_m2.sum() == pytest.approx(whole, rel=1e-6)


def test_slanted_edges_count_in_full():
    """Perimeters are those of the outline as drawn, also after simplification."""
    frame, instances = frame_of("rotated by 30 degrees"), objects()
    pixels = outlines(instances)
    metric = ground_metric(frame)
    simple = simplify(pixels, 2.0, metric.at(*(instances.box[:, i].astype(float) for i in (0, 1))), frame)
    world = to_world(simple, frame)
    ours = measure(instances, (simple, world), metric, frame)

    assert ours.perimeter_m == pytest.approx(truth(world.to_shapely(), frame)[1], rel=1e-5)
    assert (ours.perimeter_m < sizes(instances, frame).perimeter_m + 1e-9).all()
    assert np.array_equal(ours.area_m2, sizes(instances, frame).area_m2)


@pytest.mark.parametrize("name", ["utm", "rotated by 30 degrees", "south up"])
def test_centroids_and_boxes_are_those_of_the_outlines(name):
    frame, instances = frame_of(name), objects()
    geometries = to_world(outlines(instances), frame).to_shapely()
    ours = sizes(instances, frame)

    assert np.array_equal(ours.area_px, instances.area)
    assert ours.bounds == pytest.approx(shapely.bounds(geometries), rel=1e-12)
    assert ours.centroid == pytest.approx(shapely.get_coordinates(shapely.centroid(geometries)), rel=1e-9)


@pytest.mark.parametrize("crs", [None, 'LOCAL_CS["slide",UNIT["metre",1]]'])
def test_without_ground_sizes_are_in_pixels_only(crs):
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    ours = sizes(Instances.from_labels(labels), Frame(height=3, width=3, crs=crs))

    assert (ours.area_px.tolist(), ours.perimeter_px.tolist()) == ([8], [16.0])
    assert np.isnan([ours.area_m2, ours.perimeter_m]).all()
    assert ours.centroid.tolist() == [[1.5, 1.5]]


def test_pixels_off_the_earth_have_no_area():
    """Corners of a picture of the whole disc of the earth from space."""
    crs = pyproj.CRS("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    frame = Frame(height=500, width=500, transform=Affine(24_000, 0, -6e6, 0, -24_000, 6e6), crs=crs.to_wkt())
    labels = np.zeros((500, 500), np.int32)
    labels[:5, :5], labels[250:260, 250:260] = 1, 2
    ours = sizes(Instances.from_labels(labels), frame)

    assert np.isnan(ours.area_m2[0])
    assert ours.area_m2[1] == pytest.approx(100 * 24_000**2, rel=0.02)  # nearly true to scale below the satellite


def test_nothing_to_measure():
    ours = sizes(Instances.empty(), frame_of("utm"))

    assert (ours.area_m2.shape, ours.centroid.shape, ours.bounds.shape) == ((0,), (0, 2), (0, 4))
