"""The label OME-TIFF is the label COG in other clothes: same pixels at every level, with its size in micrometres."""

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from support_results import empty_result, result_of
from support_scenes import seam_scene

from seggeo.geometry import Frame
from seggeo.output.labels import write_cog
from seggeo.output.ome_tiff import write_ome_tiff
from seggeo.protocols import SinkOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def labels():
    return seam_scene(0, 1536).labels[:1300, :1411].copy()


@pytest.fixture(scope="module")
def result(labels):
    frame = Frame(height=1300, width=1411, transform=Affine(2, 0, 64, 0, 2, 0), spacing=(1, 0.5, 0.5), unit="um")
    return result_of(labels, frame, batch=50)


def test_every_level_equals_that_of_the_cog(result, tmp_path):
    path = write_ome_tiff(result, tmp_path / "l.ome.tif", SinkOptions())
    cog = write_cog(result, tmp_path / "l.tif", SinkOptions())
    with tifffile.TiffFile(path) as ours, tifffile.TiffFile(cog) as theirs:
        assert ours.is_ome
        levels = ours.series[0].levels
        assert len(levels) == len(theirs.pages) > 1
        ids = set(np.unique(levels[0].asarray()))
        for level, page in zip(levels, theirs.pages, strict=True):
            assert np.array_equal(level.asarray(), page.asarray())
            assert set(np.unique(level.asarray())) <= ids
        assert ours.series[0].axes == "YX"
        assert [len(p.dataoffsets) for p in ours.pages] == [9]
    assert path.stat().st_size < cog.stat().st_size + 8000


def test_sizes_are_those_of_the_work_grid(result, tmp_path):
    path = write_ome_tiff(result, tmp_path / "l.ome.tif", SinkOptions())
    with tifffile.TiffFile(path) as tiff:
        (image,) = [tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]]
        pixels = image["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"], pixels["Type"]) == (0.5, "µm", "uint32")
        assert "[2.0, 0.0, 64.0, 0.0, 2.0, 0.0]" in tiff.ome_metadata


def test_bytes_repeat_and_the_name_does_not_matter(result, tmp_path):
    files = [write_ome_tiff(result, tmp_path / n, SinkOptions()).read_bytes() for n in ("a.ome.tif", "b.tif")]
    assert files[0] == files[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.tif", "b.tif"]


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (700, 30)])
def test_empty_slides_and_unknown_resolutions(shape, tmp_path):
    path = write_ome_tiff(empty_result(Frame(height=shape[0], width=shape[1])), tmp_path / "e.ome.tif", SinkOptions())
    with tifffile.TiffFile(path) as tiff:
        assert "PhysicalSize" not in tiff.ome_metadata
        assert tiff.series[0].shape == shape
        assert not tiff.series[0].asarray().any()
    assert path.stat().st_size < 7500


def test_every_tile_is_there_and_empty_ones_are_one(tmp_path):
    labels = np.zeros((3000, 2600), np.int32)
    labels[700:720, 1500:1530] = 1
    frame = Frame(height=3000, width=2600)
    path = write_ome_tiff(result_of(labels, frame), tmp_path / "s.ome.tif", SinkOptions())
    with tifffile.TiffFile(path) as tiff:
        pages = [level.keyframe for level in tiff.series[0].levels]
        places = {(o, n) for page in pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)}
        assert min(n for _, n in places) > 0
        assert len(places) == 1 + len(pages)
        assert np.array_equal(tiff.series[0].asarray(), labels)
        assert [level.asarray().max() for level in tiff.series[0].levels] == [1] * len(pages)
    with rasterio.open(path) as raster:
        assert np.array_equal(raster.read(1), labels)
    assert path.stat().st_size < 25_000
