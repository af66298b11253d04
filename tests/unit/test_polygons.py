"""Outlines: exact along pixel edges, valid, equal to GDAL's polygonizer; simplified in metres."""

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize, shapes
from scipy import ndimage

from seggeo.errors import GeometryError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.measures import ground_metric
from seggeo.output.polygons import Polygons, from_shapely, oriented, outlines, simplify, to_world
from seggeo.output.wkb import multipolygons
from seggeo.rle import Spans

WKT = {code: pyproj.CRS(code).to_wkt() for code in (4326, 32633, 3857)}
ROTATED = Affine.translation(500_000, 5_500_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)


def spiral(side):
    image = np.zeros((side, side), np.uint8)
    row, col, turn = 0, 0, 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    image[0, 0] = 1
    length = side - 1
    while length > 0:
        for _ in range(length):
            row, col = row + steps[turn % 4][0], col + steps[turn % 4][1]
            image[row, col] = 1
        turn += 1
        length -= 2 if turn > 2 and turn % 2 else 0
    return image


def nested(side):
    y, x = np.mgrid[:side, :side]
    return (np.maximum(abs(y - side // 2), abs(x - side // 2)) % 2 == 0).astype(np.uint8)


def pinched():
    """One part that closes a ring by a corner (a hole touching the exterior), and a hole that touches itself."""
    return np.array(
        [[1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0]], np.uint8
    )


ADVERSARIAL = {
    "one pixel": np.ones((1, 1), np.uint8),
    "full frame": np.ones((300, 500), np.uint8),
    "checkerboard": (np.indices((41, 43)).sum(axis=0) % 2).astype(np.uint8),
    "diagonal": np.eye(50, dtype=np.uint8),
    "diagonals": np.maximum(np.eye(50, dtype=np.uint8), np.eye(50, dtype=np.uint8)[::-1]),
    "nested": nested(61),
    "spiral": spiral(120),
    "comb": np.tile(np.array([[1, 0]], np.uint8), (40, 60)) | (np.arange(40) == 0)[:, None].astype(np.uint8),
    "pinched": pinched(),
    "noise": (np.random.default_rng(3).random((150, 170)) < 0.59).astype(np.uint8),
    "holes in a row": np.pad(np.tile(np.array([[0, 1]], np.uint8), (1, 40)), 1, constant_values=1),
}


def check_exact(labels):
    """Areas, parts, validity, pixels and vertices of all masks of an integer image; equality with GDAL."""
    instances = Instances.from_labels(labels)
    ids = np.unique(labels[labels > 0])
    polygons = outlines(instances)
    geometries = polygons.to_shapely()
    assert shapely.is_valid(geometries).all()
    assert np.array_equal(shapely.area(geometries), instances.area)
    assert np.array_equal(np.diff(polygons.mask_start), [ndimage.label(labels == i)[1] for i in ids])
    pairs = list(zip(geometries, ids.tolist(), strict=True))
    if pairs:
        assert np.array_equal(rasterize(pairs, labels.shape, dtype="int32"), np.where(labels > 0, labels, 0))
    theirs = {int(i): [] for i in ids}
    for geometry, value in shapes(labels.astype(np.int32), mask=labels > 0, connectivity=4):
        theirs[int(value)].append(shapely.geometry.shape(geometry))
    for ours, value in pairs:
        parts = theirs[value]
        assert len(ours.geoms) == len(parts)
        assert {p.normalize().wkb for p in ours.geoms} == {p.normalize().wkb for p in parts} or shapely.equals(
            ours, shapely.MultiPolygon(parts)
        )
    check_rings(polygons)


def check_rings(polygons: Polygons):
    """Rings are closed, turn at every vertex, and run counter-clockwise on screen unless they are holes."""
    for ring, is_hole in zip(range(len(polygons.ring_start) - 1), polygons.is_hole, strict=True):
        xy = polygons.xy[polygons.ring_start[ring] : polygons.ring_start[ring + 1]]
        assert (xy[0] == xy[-1]).all()
        steps = np.diff(xy, axis=0)
        assert ((steps != 0).sum(axis=1) == 1).all()
        along_x = steps[:, 0] != 0
        assert (along_x != np.roll(along_x, 1)).all()
        signed = 0.5 * (xy[:-1, 0] * xy[1:, 1] - xy[1:, 0] * xy[:-1, 1]).sum()
        assert (signed > 0) == is_hole  # y runs downwards


@settings(max_examples=150, deadline=None)
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)))
def test_outlines_are_the_masks(labels):
    check_exact(labels)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_masks_are_exact(name):
    check_exact(ADVERSARIAL[name].astype(np.int32))
    check_exact(np.pad(1 - ADVERSARIAL[name].astype(np.int32), 1))


def test_long_rings_mixed_with_small_ones_are_exact():
    labels = np.zeros((260, 260), np.int32)
    labels[:120, :120] = spiral(120)
    labels[140:, :120] = 2 * ADVERSARIAL["noise"][:120, :120]
    labels[:, 130:258] = np.kron(np.arange(3, 3 + 65 * 32).reshape(65, 32), np.ones((4, 4), np.int32))
    check_exact(labels)


def test_many_at_once_are_the_same_as_one_by_one():
    """Also across chunks, for masks that overlap and for masks far from the origin."""
    rng = np.random.default_rng(11)
    masks = [rng.random(tuple(rng.integers(1, 9, 2))) < 0.6 for _ in range(30_000)]
    instances = Instances.from_masks(masks, origin=rng.integers(0, 2_000_000, (len(masks), 2)))
    together = multipolygons(outlines(instances)).to_pylist()
    for i in rng.integers(0, len(instances), 200):
        assert multipolygons(outlines(instances.take(np.array([i])))).to_pylist() == [together[i]]
    assert np.array_equal(shapely.area(shapely.from_wkb(together)), instances.area)


def test_masks_as_wide_as_the_largest_rasters_are_exact():
    """Masks of two pixels 60 000 rows and columns apart: positions and owners no longer fit in one integer with an index."""
    owner = np.repeat(np.arange(40_000), 2)
    row = np.tile([0, 60_000], 40_000) + owner
    instances = Instances.from_spans(
        Spans(owner=owner, row=row, start=row, stop=row + 1), score=np.ones(40_000, np.float32), label=np.zeros(40_000)
    )
    geometries = outlines(instances).to_shapely()

    assert (shapely.area(geometries) == 2).all()
    assert (shapely.get_num_geometries(geometries) == 2).all()
    assert np.array_equal(shapely.bounds(geometries), instances.box[:, [1, 0, 3, 2]])


@settings(max_examples=100, deadline=None)
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)))
def test_wkb_is_byte_for_byte_shapelys(labels):
    polygons = outlines(Instances.from_labels(labels))
    theirs = shapely.to_wkb(polygons.to_shapely(), byte_order=1, flavor="iso")

    assert multipolygons(polygons).to_pylist() == list(theirs)


def test_no_masks_make_no_polygons():
    polygons = outlines(Instances.empty())

    assert (len(polygons), len(polygons.to_shapely()), len(multipolygons(polygons))) == (0, 0, 0)
    assert len(from_shapely(polygons.to_shapely())) == 0
    assert len(oriented(polygons)) == 0


def test_offsets_that_do_not_fit_are_refused():
    with pytest.raises(GeometryError, match="offsets"):
        Polygons(xy=np.zeros((4, 2)), ring_start=np.array([0, 5]), part_start=np.array([0, 1]), mask_start=np.array([0, 1]))


TRANSFORMS = {
    "north up": Affine(10, 0, 300_000, 0, -10, 6_700_000),
    "south up": Affine(10, 0, 300_000, 0, 10, 6_600_000),
    "rotated": ROTATED,
    "sheared": Affine(0.5, 0.2, 1e7, 0.1, -0.4, -2e6),
    "pixels": Affine.identity(),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_world_outlines_come_back_and_run_counter_clockwise(name):
    labels = ADVERSARIAL["noise"].astype(np.int32)
    frame = Frame(height=150, width=170, transform=TRANSFORMS[name])
    pixels = outlines(Instances.from_labels(labels))
    world = to_world(pixels, frame)

    rows, cols = frame.world_to_pixel(*world.xy.T)
    assert np.allclose(np.stack([cols, rows], axis=1), np.rint(np.stack([cols, rows], axis=1)), atol=1e-6, rtol=0)
    assert shapely.is_valid(world.to_shapely()).all()
    assert shapely.area(world.to_shapely()) == pytest.approx(labels.sum() * abs(frame.determinant), rel=1e-9)
    for ring, is_hole in zip(shapely.get_rings(shapely.get_parts(world.to_shapely())), world.is_hole, strict=True):
        assert shapely.is_ccw(ring) != is_hole
    assert np.array_equal(oriented(world).xy, world.xy)


def blobs(seed, side=200):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((side, side)), 2)
    return ndimage.label(field > np.quantile(field, 0.6))[0].astype(np.int32)


@pytest.mark.parametrize("tolerance", [0.6, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_simplified_outlines_stay_valid_and_near(seed, tolerance):
    frame = Frame(height=200, width=200, transform=ROTATED, crs=WKT[32633])
    pixels = outlines(Instances.from_labels(blobs(seed)))
    metric = np.tile([1.0, 0.0, 1.0], (len(pixels), 1))
    simple = simplify(pixels, tolerance, metric, frame)
    before, after = pixels.to_shapely(), simple.to_shapely()

    assert shapely.is_valid(to_world(simple, frame).to_shapely()).all()
    assert not shapely.is_empty(after).any()
    assert np.array_equal(shapely.get_num_geometries(before), shapely.get_num_geometries(after))
    strays = shapely.hausdorff_distance(shapely.boundary(before), shapely.boundary(after))
    assert strays.max() <= 1.25 * tolerance
    assert np.mean(strays > 1.001 * tolerance) < 0.02  # GEOS moves the end of a ring without regard to what it dropped before
    assert len(simple.xy) < len(pixels.xy)
    for ring, is_hole in zip(shapely.get_rings(shapely.get_parts(after)), simple.is_hole, strict=True):
        assert shapely.is_ccw(ring) == is_hole


@pytest.mark.parametrize("name", ["pinched", "noise", "nested", "checkerboard"])
def test_simplified_adversarial_outlines_are_valid(name):
    labels = ADVERSARIAL[name].astype(np.int32)
    frame = Frame(height=labels.shape[0], width=labels.shape[1], transform=ROTATED, crs=WKT[32633])
    simple = simplify(outlines(Instances.from_labels(labels)), 2.0, np.array([[1.0, 0.0, 1.0]]), frame)

    assert shapely.is_valid(to_world(simple, frame).to_shapely()).all()


def test_a_metre_is_a_metre_in_every_crs():
    """Simplifying by 5 m drops the same vertices in UTM, in web Mercator and in degrees, with square pixels on the ground."""
    lat = 60.0
    metre = 1 / 111_412.0  # of latitude at 60 degrees; a metre of longitude is 1 / 55 800
    frames = [
        Frame(height=200, width=200, transform=Affine(2, 0, 500_000, 0, -2, 6_650_000), crs=WKT[32633]),
        Frame(height=200, width=200, transform=Affine(2 / 55_800, 0, 15, 0, -2 * metre, lat), crs=WKT[4326]),
        Frame(height=200, width=200, transform=Affine(3.9933, 0, 1.6e6, 0, -3.9933, 8_399_738), crs=WKT[3857]),
    ]
    instances = Instances.from_labels(blobs(4))
    pixels = outlines(instances)
    kept = []
    for frame in frames:
        metric = ground_metric(frame).at(instances.box[:, 0].astype(float), instances.box[:, 1].astype(float))
        assert np.sqrt(metric[:, [0, 2]]) == pytest.approx(2.0, rel=5e-3)
        kept.append(len(simplify(pixels, 5.1, metric, frame).xy))

    assert kept[0] < 0.6 * len(pixels.xy)
    assert np.ptp(kept) <= 0.02 * kept[0]


def test_no_tolerance_and_no_metric_leave_outlines_alone():
    frame = Frame(height=200, width=200)
    pixels = outlines(Instances.from_labels(blobs(4)))
    metric = np.tile([1.0, 0.0, 1.0], (len(pixels), 1))

    assert simplify(pixels, 0.0, metric, frame) is pixels
    assert simplify(pixels, 5.0, metric * np.nan, frame) is pixels
    metric[0], metric[1] = np.nan, [0.0, 0.0, 1.0]
    simple = simplify(pixels, 5.0, metric, frame)
    assert np.array_equal(np.diff(simple.mask_vertex_start)[:2], np.diff(pixels.mask_vertex_start)[:2])
    assert len(simple.xy) < len(pixels.xy)
