"""The label OME-Zarr is the label COG in a folder: same pixels at every level, with size and place in micrometres."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from affine import Affine
from skimage.measure import label as components
from support_results import PROVENANCE, ListResult, empty_result, result_of
from support_scenes import seam_scene
from support_slides import open_native

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output.labels import write_cog
from seggeo.output.ome_tiff import write_ome_tiff
from seggeo.output.ome_zarr import is_ours, write_ome_zarr
from seggeo.protocols import SinkOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
FRAME = Frame(height=1300, width=1411, transform=Affine(2, 0, 64, 0, 2, 32), spacing=(1, 0.5, 0.5), unit="um", scale=2)
UNITS = {"micrometer", "millimeter", "meter"}


@pytest.fixture(scope="module")
def labels():
    # Raster order of ids is the order of objects in a result: by first row.
    return components(seam_scene(0, 1536).labels[:1300, :1411], connectivity=1).astype(np.int32)


@pytest.fixture(scope="module")
def result(labels):
    return result_of(labels, FRAME, batch=50)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    return write_ome_zarr(result, tmp_path_factory.mktemp("zarr") / "l.ome.zarr", SinkOptions())


def attributes(group):
    return json.loads((group / ".zattrs").read_text(encoding="utf-8"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_image(folder):
    """Hold a group's `multiscales` to OME-NGFF 0.4; the arrays of its levels, largest first."""
    (image,) = attributes(folder)["multiscales"]
    assert image["version"] == "0.4"
    assert [axis["name"] for axis in image["axes"]] == ["y", "x"]
    assert all(axis["type"] == "space" and axis.get("unit", "meter") in UNITS for axis in image["axes"])
    for data in image["datasets"]:
        first, *further = data["coordinateTransformations"]
        assert first["type"] == "scale"
        assert [step["type"] for step in further] in ([], ["translation"])
        assert all(len(step[step["type"]]) == 2 for step in (first, *further))
        assert min(first["scale"]) > 0
    group = zarr.open_group(folder, mode="r")
    arrays = [group[data["path"]] for data in image["datasets"]]
    assert all(a.dtype == arrays[0].dtype and a.ndim == 2 for a in arrays)
    assert all(a.shape[0] >= b.shape[0] and a.shape[1] >= b.shape[1] for a, b in pairwise(arrays))
    return arrays


def test_every_level_equals_those_of_the_other_rasters(result, written, tmp_path):
    cog = write_cog(result, tmp_path / "l.tif", SinkOptions())
    ome = write_ome_tiff(result, tmp_path / "l.ome.tif", SinkOptions())
    arrays = check_image(written / "labels" / "objects")
    with tifffile.TiffFile(cog) as first, tifffile.TiffFile(ome) as second:
        assert len(arrays) == len(first.pages) == 3
        ids = set(np.unique(arrays[0][:]))
        for array, page, level in zip(arrays, first.pages, second.series[0].levels, strict=True):
            assert array.dtype == np.uint32
            assert np.array_equal(array[:], page.asarray())
            assert np.array_equal(array[:], level.asarray())
            assert set(np.unique(array[:])) <= ids


def test_it_is_an_image_with_labels_as_ome_ngff_has_them(written):
    labels = written / "labels" / "objects"

    assert attributes(written / "labels") == {"labels": ["objects"]}
    assert attributes(labels)["image-label"] == {"version": "0.4", "source": {"image": "../../"}}
    for image, label in zip(check_image(written), check_image(labels), strict=True):
        assert image.path == f"labels/objects/{label.path}"
        assert np.array_equal(image[:], label[:])
    assert attributes(written)["seggeo"]["provenance"] == PROVENANCE


def test_centres_of_pixels_lie_where_the_slide_has_them(written):
    (image,) = attributes(written)["multiscales"]
    for level, data in enumerate(image["datasets"]):
        scale, shift = (step[step["type"]] for step in data["coordinateTransformations"])
        x, y = FRAME.pixel_to_world(7.5 * 2**level, 3.5 * 2**level)  # pixels of the slide; its first centre is at 0.5
        placed = [7 * scale[0] + shift[0], 3 * scale[1] + shift[1]]
        assert placed == pytest.approx([(y - 0.5) * 0.25, (x - 0.5) * 0.25])


@pytest.mark.parametrize(
    ("fields", "axis", "scale"),
    [
        ({}, {"name": "y", "type": "space"}, 1.0),
        ({"spacing": (1, 0.3, 0.2), "unit": "m", "crs": rasterio.CRS.from_epsg(32632).to_wkt(),
          "transform": Affine(0.2, 0, 5e5, 0, -0.3, 5e6)}, {"name": "y", "type": "space", "unit": "meter"}, 0.3),
    ],
)  # fmt: skip
def test_maps_and_plain_pixels_start_at_zero(fields, axis, scale, tmp_path):
    path = write_ome_zarr(empty_result(Frame(height=600, width=700, **fields)), tmp_path / "e.ome.zarr", SinkOptions())
    (image,) = attributes(path)["multiscales"]
    steps = [[step[step["type"]][0] for step in data["coordinateTransformations"]] for data in image["datasets"]]

    assert image["axes"][0] == axis
    assert steps == [[scale, 0.0], [2 * scale, scale / 2]]
    assert attributes(path)["seggeo"]["crs"] == fields.get("crs")
    assert not any(array[:].any() for array in check_image(path))
    assert sum(map(len, contents(path).values())) < 6000


def test_seggeo_reads_what_it_writes(written, labels):
    with open_native(written) as source:
        assert source.describe()["driver"] == "OME-Zarr 0.4"
        assert source.frame.spacing == (1.0, 0.5, 0.5)
        assert np.array_equal(source.read(source.frame.window).data[..., 0], labels)


def test_gdal_reads_it(written, labels):
    with rasterio.open(f'ZARR:"{written}":/labels/objects/0') as raster:
        assert np.array_equal(raster.read(1), labels)


def test_bytes_repeat_and_only_blocks_with_objects_are_there(result, tmp_path):
    first, second = (write_ome_zarr(result, tmp_path / n, SinkOptions()) for n in ("a.ome.zarr", "b.zarr"))
    assert contents(first) == contents(second)
    sparse = np.zeros((3000, 2600), np.int32)
    sparse[700:720, 1500:1530] = 1
    path = write_ome_zarr(result_of(sparse), tmp_path / "s.ome.zarr", SinkOptions())

    blocks = [name for name in contents(path) if not Path(name).name.startswith(".")]
    assert blocks == ["labels/objects/0/1/2", "labels/objects/1/0/1", "labels/objects/2/0/0", "labels/objects/3/0/0"]
    assert [array[:].max() for array in check_image(path)] == [1] * 4
    assert np.array_equal(check_image(path)[0][:], sparse)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.zarr", "b.zarr", "s.ome.zarr"]


def test_memory_does_not_grow_with_the_slide(tmp_path):
    peaks = []
    for height in (4096, 16384):
        spots = np.zeros((height, 1024), np.int32)
        spots[8::64, 8::64] = np.arange(1, 16 * height // 64 + 1).reshape(-1, 16)
        result = result_of(spots, batch=256)
        tracemalloc.start()
        write_ome_zarr(result, tmp_path / f"{height}.ome.zarr", SinkOptions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.1 * peaks[0]


def test_a_folder_is_replaced_as_a_whole_and_stays_on_failure(result, written, tmp_path):
    path = tmp_path / "l.ome.zarr"
    shutil.copytree(written, path)
    before = contents(path)

    class Broken(ListResult):
        def iter_objects(self):
            yield from super().iter_objects()
            raise OSError("reading the parts failed")

    with pytest.raises(OutputError, match="reading the parts"):
        write_ome_zarr(Broken(result.objects, result.frame), path, SinkOptions())
    assert contents(path) == before

    write_ome_zarr(empty_result(FRAME), path, SinkOptions())

    assert is_ours(path)
    assert not any(array[:].any() for array in check_image(path))
    assert [p.name for p in tmp_path.iterdir()] == ["l.ome.zarr"]
    assert not is_ours(tmp_path)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import numpy as np
from pathlib import Path
from support_results import result_of
from seggeo.output import ome_zarr
from seggeo.protocols import SinkOptions

write, blocks = ome_zarr._write_block, []
def write_and_die(*given):
    write(*given)
    blocks.append(given)
    if len(blocks) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
ome_zarr._write_block = write_and_die
ome_zarr.write_ome_zarr(result_of(np.arange(1, 1500 * 1500 + 1).reshape(1500, 1500) // 1000), Path("k.ome.zarr"), SinkOptions())
"""


def test_killed_in_between_no_final_name_is_there(tmp_path):
    from seggeo.files import remove_leftovers

    code = KILLED.format(tests=str(Path(__file__).parents[1]))
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert any(tmp_path.rglob("labels/objects/0/0/0")), "it was in the midst of writing"
    assert not (tmp_path / "k.ome.zarr").exists()

    remove_leftovers(tmp_path)

    assert list(tmp_path.iterdir()) == []
