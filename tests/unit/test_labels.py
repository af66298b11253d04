"""The label raster equals a naive painting, at every level, and keeps the promises of a Cloud Optimized GeoTIFF."""

import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.windows import Window as RasterWindow
from skimage.measure import label as components
from skimage.measure import regionprops
from support_results import ListResult, empty_result, objects_of, result_of
from support_scenes import KINDS, nested, paint, random_scene, seam_scene

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.labels import write_cog
from seggeo.output.pyramid import halve
from seggeo.output.tiff import Level, gdal_tags, header
from seggeo.protocols import SinkOptions

UTM = CRS.from_epsg(32632).to_wkt()
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def labels():
    # Raster order of ids is the order of objects in a result: by first row.
    return components(seam_scene(0, 1536).labels[:1300, :1411], connectivity=1).astype(np.int32)


@pytest.fixture(scope="module")
def written(labels, tmp_path_factory):
    frame = Frame(height=1300, width=1411, transform=Affine(0.3, 0, 5e5, 0, -0.3, 5e6), crs=UTM, unit="m")
    path = tmp_path_factory.mktemp("cog") / "labels.tif"
    return write_cog(result_of(labels, frame, batch=37), path, SinkOptions())


def read(path, level=None):
    options = {} if level is None else {"overview_level": level}
    with rasterio.open(path, **options) as raster:
        return raster.read(1)


def test_pixels_are_the_ids_of_the_objects(labels, written):
    assert np.array_equal(read(written), labels)


def test_every_overview_holds_only_ids_of_full_resolution_where_they_are(labels, written):
    assert read(written, 1).shape == (325, 353)
    for level in range(2):
        small, step = read(written, level), 2 ** (level + 1)
        assert small.any()
        for row, col in np.argwhere(small > 0)[::17]:
            assert small[row, col] in labels[row * step : (row + 1) * step, col * step : (col + 1) * step]
        assert set(np.unique(small)) <= set(np.unique(labels))


def test_compact_objects_keep_their_area_and_thin_roads_stay_whole_in_the_smallest_overview(labels, written):
    small = read(written, 1)
    areas = np.bincount(labels.ravel())
    for region in regionprops(labels):
        seen = small == region.label
        if region.area > 3000 and region.solidity > 0.95 and region.axis_minor_length > 40:
            assert abs(seen.sum() * 16 / areas[region.label] - 1) < 0.25
        if region.axis_major_length > 1000:
            assert components(seen, connectivity=2).max() == 1
            assert np.ptp(np.nonzero(seen)[1]) >= (region.bbox[3] - region.bbox[1]) / 4 - 2


def test_the_band_says_what_it_is(written):
    with rasterio.open(written) as raster:
        assert raster.dtypes == ("uint32",)
        assert raster.nodata == 0
        assert raster.descriptions == ("instance id",)
        assert raster.overviews(1) == [2, 4]
        assert raster.block_shapes == [(512, 512)]
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.crs == CRS.from_epsg(32632)


def test_it_follows_the_rules_of_cloud_optimized_geotiffs(written):
    check_cog(written)


def test_tifffile_reads_the_same_pixels(labels, written):
    with tifffile.TiffFile(written) as tiff:
        assert [p.shape for p in tiff.pages] == [(1300, 1411), (650, 706), (325, 353)]
        assert [p.is_reduced for p in tiff.pages] == [False, True, True]
        assert np.array_equal(tiff.pages[0].asarray(), labels)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(0.3, 0, 5e5, 0, -0.3, 5e6), 32632),
        (Affine(0.3, 0, 5e5, 0, 0.3, 5e6), 32632),
        (Affine(0.26, 0.15, 5e5, 0.15, -0.26, 5e6), 32632),
        (Affine(1e-5, 0, 179.99999, 0, -1e-5, -16.5), 4326),
        (Affine(0.6, 0, -1.36e7, 0, -0.6, 6e6), 3857),
        (Affine(2, 0, 100, 0, -2, 50), None),
        (Affine.identity(), None),
    ],
)
def test_the_georeference_comes_back(tmp_path, transform, crs):
    wkt = None if crs is None else CRS.from_epsg(crs).to_wkt()
    frame = Frame(height=600, width=40, transform=transform, crs=wkt)
    path = write_cog(empty_result(frame), tmp_path / "g.tif", SinkOptions())
    with rasterio.open(path) as raster:
        assert raster.transform.almost_equals(transform, 1e-12)
        assert raster.crs == (None if crs is None else CRS.from_epsg(crs))


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (513, 511), (2000, 3)])
def test_no_objects_give_a_valid_empty_raster(tmp_path, shape):
    path = write_cog(empty_result(Frame(height=shape[0], width=shape[1])), tmp_path / "empty.tif", SinkOptions())
    check_cog(path)
    with rasterio.open(path) as raster:
        assert raster.shape == shape
        assert not raster.read(1).any()
    assert path.stat().st_size < 4000


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(500, 1100), st.integers(1, 1100), st.integers(1, 400))
def test_any_scene_equals_its_painting(tmp_path_factory, kind, seed, height, width, batch):
    truth = random_scene(kind, seed, (height, max(width, 40)))
    path = write_cog(result_of(truth, batch=batch), tmp_path_factory.mktemp("s") / "s.tif", SinkOptions())
    assert np.array_equal(read(path), truth)


@pytest.mark.parametrize("seed", range(3))
def test_parts_lie_on_top_of_wholes(tmp_path, seed):
    chain = nested(seed, (700, 1200))
    chain = chain.take(np.argsort(chain.box[:, 0], kind="stable"))
    frame = Frame(height=700, width=1200)
    result = ListResult(objects_of(chain, frame), frame, exclusive=False, batch=3)
    path = write_cog(result, tmp_path / "n.tif", SinkOptions())
    assert np.array_equal(read(path), paint(chain, (700, 1200)))


def test_of_equal_areas_the_higher_id_lies_on_top(tmp_path):
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:6, 2:6], masks[1, 3:7, 3:7] = True, True
    frame = Frame(height=10, width=10)
    objects = objects_of(Instances.from_masks(masks), frame)
    found = read(write_cog(ListResult(objects, frame, exclusive=False), tmp_path / "t.tif", SinkOptions()))
    assert found[4, 4] == 2
    assert found[2, 2] == 1


def test_bytes_depend_on_the_objects_only(labels, written, tmp_path):
    with rasterio.open(written) as raster:
        frame = Frame(height=1300, width=1411, transform=raster.transform, crs=UTM, unit="m")
    for batch in (1, 5, 10**6):
        again = write_cog(result_of(labels, frame, batch=batch), tmp_path / "other name.tif", SinkOptions())
        assert again.read_bytes() == written.read_bytes()


def test_nothing_is_left_beside_the_file_even_after_a_failure(tmp_path):
    class Broken(ListResult):
        def iter_objects(self):
            yield from super().iter_objects()
            raise RuntimeError("reading the parts failed")

    good = result_of(random_scene("discs", 1))
    path = write_cog(good, tmp_path / "a.tif", SinkOptions())
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="reading the parts"):
        write_cog(Broken(good.objects, good.frame), path, SinkOptions())
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == before


def test_volumes_are_refused(tmp_path):
    result = empty_result(Frame(depth=3, height=10, width=10))
    with pytest.raises(OutputError, match="3 slices"):
        write_cog(result, tmp_path / "v.tif", SinkOptions())
    assert not list(tmp_path.iterdir())


def test_ids_up_to_the_last_of_uint32_survive(tmp_path):
    truth = random_scene("voronoi", 4, (600, 520))
    result = result_of(truth)
    ids = (np.uint32(2**32 - 1) - np.arange(result.count, dtype=np.uint32))[::-1]
    path = write_cog(replace(result, objects=replace(result.objects, id=ids)), tmp_path / "u.tif", SinkOptions())
    assert np.array_equal(read(path), np.concatenate([[0], ids]).astype(np.uint32)[truth])


def test_a_huge_nearly_empty_frame_costs_little(tmp_path):
    frame = Frame(height=126_000, width=126_000)
    masks = [np.ones((700, 900), bool), np.ones((5, 5), bool)]
    instances = Instances.from_masks(masks, origin=[(3000, 400), (125_990, 125_900)])
    result = ListResult(objects_of(instances, frame), frame)
    tracemalloc.start()
    path = write_cog(result, tmp_path / "huge.tif", SinkOptions())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    check_cog(path)
    assert peak < 50e6
    assert path.stat().st_size < 3e6
    with rasterio.open(path) as raster:
        assert raster.read(1, window=RasterWindow(400, 3000, 900, 700)).all()
        corner = raster.read(1, window=RasterWindow(125_800, 125_900, 200, 100))
    assert (corner == 2).sum() == 25


def test_beyond_4_gib_the_header_is_a_bigtiff(tmp_path):
    far = 5 * 2**30
    packed = zlib.compress(np.arange(512 * 512, dtype="<u4").tobytes())
    level = Level(
        height=512,
        width=512,
        offset=np.array([far], np.uint64),
        size=np.array([len(packed)], np.uint32),
        length=far + len(packed),
    )
    head = header([level], gdal_tags(Frame(height=512, width=512), "instance id"), 512)
    path = tmp_path / "big.tif"
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + far)
        file.write(packed)
    steps = np.arange(512 * 512, dtype=np.uint32).reshape(512, 512)
    assert struct.unpack_from("<H", head, 2)[0] == 43
    assert np.array_equal(read(path), np.cumsum(steps, axis=1, dtype=np.uint32))


def test_halving_keeps_lines_and_majorities():
    block = np.array([[0, 0, 5, 7], [5, 5, 7, 7], [0, 0, 3, 4], [0, 9, 6, 3]], np.uint32)
    assert halve(block).tolist() == [[5, 7], [0, 3]]


def test_halving_equals_a_count_pixel_by_pixel():
    block = np.random.default_rng(0).integers(0, 4, (64, 96)).astype(np.uint32)
    small = halve(block)
    for row in range(32):
        for col in range(48):
            four = block[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel().tolist()
            ids = [v for v in four if v]
            expected = max(ids, key=lambda v: (ids.count(v), -ids.index(v))) if len(ids) > 1 else 0
            assert small[row, col] == expected


def check_cog(path):
    """The published rules: directories first and in falling size, then tiles, smallest overview first, leaders right."""
    content = path.read_bytes()
    is_big = struct.unpack_from("<H", content, 2)[0] == 43
    with tifffile.TiffFile(path) as tiff:
        pages = list(tiff.pages)
        ghost = content[(16 if is_big else 8) :]
        assert ghost.startswith(b"GDAL_STRUCTURAL_METADATA_SIZE=")
        length = int(ghost[30:36])
        first = (16 if is_big else 8) + 43 + length
        assert pages[0].offset == first + first % 2
        assert [p.offset for p in pages] == sorted(p.offset for p in pages)
        shapes = [p.shape for p in pages]
        assert shapes == [(-(-shapes[0][0] // 2**i), -(-shapes[0][1] // 2**i)) for i in range(len(pages))]
        assert max(shapes[-1]) <= 512
        assert all(p.is_tiled and p.tile == (512, 512) for p in pages)
        end_of_headers = max(_last_byte(p) for p in pages)
        runs = [[(o, n) for o, n in zip(p.dataoffsets, p.databytecounts, strict=True) if n] for p in pages]
        place = end_of_headers
        for run in reversed(runs):
            for offset, size in run:
                assert offset - 4 >= place
                assert struct.unpack_from("<I", content, offset - 4)[0] == size
                assert content[offset + size : offset + size + 4] == content[offset + size - 4 : offset + size]
                place = offset + size + 4
        assert place == len(content) or not any(runs)


def _last_byte(page):
    return max(t.valueoffset + t.valuebytecount for t in page.tags.values())
