"""What is no slide, and slides that are damaged: three lines that say why, never another exception, never a hang."""

import os
import random
import struct
import subprocess
import sys
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
import tifffile
from support_slides import SVS, needs_svs, open_native, tissue, write_ome, write_scn, write_svs, write_zarr

from seggeo.config import Reading
from seggeo.errors import SeggeoError, SourceError
from seggeo.io.slide import is_slide, open_slide

PLANE = np.random.default_rng(1).integers(0, 255, (200, 300)).astype(np.uint8)


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    return write_svs(tmp_path_factory.mktemp("svs") / "a.svs", tissue(600, 700))


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "0 bytes"), (b"<!DOCTYPE html><html></html>", "web page"), (b'{"error": 403}', "JSON"),
     (b"ZISRAWFILE" * 9, "cut off"),
     (b"II*\0\x08\0\0\0", "cannot be read"), (b"II*\0\xff\xff\xff\x7f", "cannot be read"), (b"MM\0+", "cannot be read"),
     (b"\0" * 128 + b"DICM" + b"\0" * 99, "cannot be read")],
)  # fmt: skip
def test_other_files_with_the_ending_of_a_slide_are_refused(tmp_path, content, why):
    path = tmp_path / "a.svs"
    path.write_bytes(content)

    with pytest.raises(SourceError, match=why):
        open_native(path)


def test_what_is_missing_a_folder_or_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")

    for path, why in (
        (tmp_path / "no.svs", "does not exist"),
        (tmp_path / "pipe.svs", "is not a file"),
        (tmp_path, "cannot be"),
    ):
        assert not is_slide(str(path))
        with pytest.raises(SourceError, match=why):
            open_native(path)


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.7, 0.99])
def test_a_slide_that_is_cut_off_is_refused_before_anything_is_read(tmp_path, svs, share):
    whole = svs.read_bytes()
    (tmp_path / "a.svs").write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(SourceError) as caught:
        open_native(tmp_path / "a.svs")
    assert "0 bytes" in caught.value.why or "copy or download" in caught.value.mend


@needs_svs
def test_a_real_slide_that_is_cut_off_is_refused(tmp_path):
    (tmp_path / "a.svs").write_bytes(SVS.read_bytes()[:500_000])

    with pytest.raises(SourceError):
        open_native(tmp_path / "a.svs")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_give_pixels_or_a_refusal(tmp_path, svs, seed):
    planes = np.stack([PLANE, PLANE]).astype(np.uint16)
    known = [svs, write_ome(tmp_path / "a.ome.tif", planes, names="ab")]
    known.append(write_scn(tmp_path / "a.scn", [(tissue(256, 256), (10, 20))], canvas=(600, 600), mpp=0.5))
    tifffile.imwrite(tmp_path / "ij.tif", planes, imagej=True, metadata={"axes": "CYX"})
    rng = random.Random(seed)
    for path in [*known, tmp_path / "ij.tif"] * 8:
        raw = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 4, 20])):
            raw[rng.choice([rng.randrange(600), len(raw) - 1 - rng.randrange(900), rng.randrange(len(raw))])] = rng.randrange(
                256
            )
        broken = tmp_path / f"broken{path.suffix}"
        broken.write_bytes(raw)
        is_slide(str(broken))
        # Any other exception is the failure of this test.
        with suppress(SeggeoError), open_slide(str(broken), Reading(max_pixels=10**7), native=True) as source:
            assert source.read(source.frame.window).valid.shape == source.frame.window.shape
            source.overview(100)


def test_a_damaged_tile_fails_alone(tmp_path, svs):
    raw = bytearray(svs.read_bytes())
    with tifffile.TiffFile(svs) as tif:
        offset, count = tif.pages[0].dataoffsets[4], tif.pages[0].databytecounts[4]
    raw[offset : offset + count] = b"x" * count
    (tmp_path / "a.svs").write_bytes(raw)

    with open_native(svs) as whole, open_native(tmp_path / "a.svs") as source:
        corner = source.frame.window.grow(-0, within=source.frame.window)
        with pytest.raises(SourceError, match="block 1, 1 of level 0"):
            source.read(corner)
        near = type(corner)(row=0, col=0, height=256, width=700)
        np.testing.assert_array_equal(source.read(near).data, whole.read(near).data)


@pytest.mark.parametrize(
    ("axes", "shape", "why"),
    [
        ("ZYX", (5, 200, 300), "5 z-slices"),
        ("TYX", (7, 200, 300), "7 time points"),
        ("TZYX", (2, 3, 200, 300), "2 time points, 3 z"),
    ],
)
def test_stacks_and_time_series_are_counted_and_not_guessed(tmp_path, axes, shape, why):
    data = np.zeros(shape, np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", data, ome=True, photometric="minisblack", metadata={"axes": axes})
    tifffile.imwrite(tmp_path / "ij.tif", data, imagej=True, metadata={"axes": axes})

    for name in ("a.ome.tif", "ij.tif"):
        with pytest.raises(SourceError, match=why):
            open_native(tmp_path / name)


def test_pages_that_nobody_named_are_not_guessed(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for _ in range(3):
            out.write(PLANE, tile=(64, 64), metadata=None)

    assert not is_slide(str(tmp_path / "a.tif"))
    with pytest.raises(SourceError, match="3 pages of one size"):
        open_native(tmp_path / "a.tif")


def test_images_of_like_size_are_not_chosen_from(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as out:
        out.write(PLANE)
        out.write(PLANE[:150])

    with pytest.raises(SourceError, match="2 images of like size"):
        open_native(tmp_path / "a.ome.tif")


def test_planes_in_other_files_are_not_followed(tmp_path):
    known = write_ome(tmp_path / "b.ome.tif", np.stack([PLANE, PLANE]), names="ab")
    with tifffile.TiffFile(known) as tif:
        xml = tif.ome_metadata
    own = xml.split('UUID="', 1)[1].split('"', 1)[0]
    parts = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{name}.ome.tif">{uuid}</UUID></TiffData>'
        for i, (name, uuid) in enumerate([("a", own), ("../b", "urn:uuid:00000000-0000-0000-0000-000000000001")])
    )
    xml = xml.replace('<TiffData IFD="0" PlaneCount="2"/>', parts)
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=xml.encode(), metadata=None, photometric="minisblack")

    with pytest.raises(SourceError, match="one of 2 files"):
        open_native(tmp_path / "a.ome.tif")


def test_a_tile_that_claims_to_be_huge_is_not_decoded(tmp_path):
    jpeg = bytearray(imagecodecs.jpeg8_encode(tissue(256, 256), level=80))
    place = next(i for i in range(len(jpeg)) if jpeg[i] == 0xFF and jpeg[i + 1] in (0xC0, 0xC2))
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 65000, 65000)
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(
            iter([bytes(jpeg)]), shape=(256, 256, 3), dtype=np.uint8, tile=(256, 256), photometric="ycbcr",
            compression="jpeg", subsampling=(2, 2),
        )  # fmt: skip

    with open_native(tmp_path / "a.tif") as source, pytest.raises(SourceError, match="claims 65000 x 65000"):
        source.read(source.frame.window)


@pytest.mark.parametrize(
    ("shape", "options", "why"),
    [((16400, 16400), {"tile": (16400, 16400)}, "blocks of 256 MiB"),
     ((1100, 200_000), {"rowsperstrip": 1024}, "strips of 200000 px")],
)  # fmt: skip
def test_blocks_too_large_to_decode_are_refused(tmp_path, shape, options, why):
    count = 1 if "tile" in options else 2
    settings = {"dtype": np.uint8, "photometric": "minisblack", "compression": "zlib", "metadata": None} | options
    tifffile.imwrite(tmp_path / "a.tif", iter([b"x"] * count), shape=shape, **settings)

    with pytest.raises(SourceError, match=why):
        open_native(tmp_path / "a.tif")


def test_unknown_compression_colours_and_sizes_beyond_the_limit_are_refused(tmp_path, svs):
    tifffile.imwrite(tmp_path / "a.tif", PLANE, tile=(64, 64), compression="zlib")
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        place = tif.pages[0].tags["Compression"].valueoffset
    raw[place : place + 2] = struct.pack("<H", 777)
    (tmp_path / "b.tif").write_bytes(raw)
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((64, 64, 4), np.uint8), photometric="separated", extrasamples=[])

    for name, why in (("b.tif", "777|compression"), ("c.tif", "SEPARATED pixels")):
        with pytest.raises(SourceError, match=why), open_native(tmp_path / name) as source:
            source.read(source.frame.window)
    with pytest.raises(SourceError, match="the limit is 1000"):
        open_slide(str(svs), Reading(max_pixels=1000), native=True)


def test_what_is_a_slide_is_told_by_content(tmp_path, svs):
    import rasterio

    planes = np.stack([PLANE, PLANE])
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "ij.tif", planes, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "scaled.tif", PLANE, **scale)
    tifffile.imwrite(tmp_path / "photo.tif", PLANE, resolution=(300, 300), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "plain.tif", PLANE, tile=(64, 64))
    os.symlink(svs, tmp_path / "svs.tif")
    (tmp_path / "scaled2.tif").write_bytes((tmp_path / "scaled.tif").read_bytes())
    (tmp_path / "scaled2.tfw").write_text("0.5\n0\n0\n-0.5\n0\n0\n", encoding="utf-8")
    transform = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    options = {"count": 1, "height": 200, "width": 300, "dtype": "uint8", "crs": "EPSG:32633", "transform": transform}
    with rasterio.open(tmp_path / "geo.tif", "w", **options) as out:
        out.write(PLANE[None])
        out.build_overviews([2, 4])
    slides = [tmp_path / "svs.tif", tmp_path / "ij.tif", tmp_path / "scaled.tif", write_zarr(tmp_path / "a.zarr", planes)]
    slides.append(write_ome(tmp_path / "o.tif", planes, names="ab"))
    rasters = [tmp_path / f"{name}.tif" for name in ("photo", "plain", "geo", "scaled2")]

    assert [is_slide(str(path)) for path in slides] == [True] * len(slides)
    assert [is_slide(str(path)) for path in rasters] == [False] * len(rasters)
    assert not is_slide("https://example.org/a.svs")


def test_without_openslide_its_formats_are_refused_and_the_others_read(tmp_path, svs):
    scn = write_scn(tmp_path / "a.scn", [(tissue(256, 256), (10, 20))], canvas=(600, 600), mpp=0.5)
    code = """
import sys
sys.modules["openslide"] = None
from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.slide import open_slide
open_slide(sys.argv[1], Reading(), native=True).close()
try:
    open_slide(sys.argv[2], Reading(), native=True)
except SourceError as error:
    print(error.mend)
"""
    answer = subprocess.run([sys.executable, "-c", code, svs, scn], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == 'pip install "seggeo[slides]"'


def test_the_thumbnail_of_a_slide_without_its_folder_is_not_taken_for_a_photograph(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(imagecodecs.jpeg8_encode(tissue(64, 64)))

    assert is_slide(str(tmp_path / "a.mrxs"))
    with pytest.raises(SourceError, match="cannot be read"):
        open_native(tmp_path / "a.mrxs")


def test_a_dicom_whose_free_bytes_look_like_a_tiff_is_a_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"II*\0" + b"\0" * 124 + b"DICM" + b"\0" * 400)

    assert is_slide(str(tmp_path / "a.dcm"))
    with pytest.raises(SourceError) as caught:
        open_native(tmp_path / "a.dcm")
    assert "OpenSlide says" in caught.value.why
    assert "convert it" in caught.value.mend


def test_an_olympus_slide_is_not_taken_for_the_tiff_of_its_thumbnails(tmp_path):
    tifffile.imwrite(tmp_path / "a.vsi", PLANE)

    assert is_slide(str(tmp_path / "a.vsi"))
    with pytest.raises(SourceError, match="Olympus VSI") as caught:
        open_native(tmp_path / "a.vsi")
    assert "bioformats2raw" in caught.value.mend
