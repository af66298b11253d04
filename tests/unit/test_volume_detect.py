"""What is a volume, and what stays an image or a slide."""

import gzip

import nibabel
import numpy as np
import pytest
import rasterio
import tifffile
from support_slides import tissue, write_ome, write_scn, write_svs, write_zarr
from support_volumes_read import SHARED

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.slide import is_slide
from seggeo.io.volume_detect import open_volume_file, volume_kind

RNG = np.random.default_rng(2)
STACK = RNG.integers(0, 255, (4, 20, 30)).astype(np.uint8)
IMAGE = tissue(600, 700)
WHOLE_SLIDE, CT = b"1.2.840.10008.5.1.4.1.1.77.1.6", b"1.2.840.10008.5.1.4.1.1.2"


def dicom(path, sop_class):
    """The first bytes of a DICOM file."""
    value = sop_class + b"\0" * (len(sop_class) % 2)
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x02\x00UI" + len(value).to_bytes(2, "little") + value)
    return path


def pages(path, arrays, **options):
    with tifffile.TiffWriter(path) as out:
        for array in arrays:
            out.write(array, metadata=None, contiguous=False, **options)
    return path


def test_slides_and_plain_images_are_no_volumes(tmp_path):
    paths = [
        write_svs(tmp_path / "a.svs", IMAGE),
        write_ome(tmp_path / "a.ome.tif", IMAGE.transpose(2, 0, 1), names=("a", "b", "c")),
        write_scn(tmp_path / "a.scn", [(IMAGE, (0, 0))], canvas=(4000, 4000), mpp=0.5),
        write_zarr(tmp_path / "a.zarr", IMAGE.transpose(2, 0, 1)),
    ]
    tifffile.imwrite(tmp_path / "rgb.tif", IMAGE, photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", STACK, imagej=True, metadata={"axes": "CYX"})
    for path in [*paths, tmp_path / "rgb.tif", tmp_path / "c.tif"]:
        assert volume_kind(str(path)) is None, path
        with pytest.raises(SourceError, match="is no volume"):
            open_volume_file(str(path), Reading())


def test_pages_of_several_kinds_are_no_volume(tmp_path):
    with tifffile.TiffWriter(tmp_path / "mask.tif") as out:
        out.write(IMAGE, photometric="rgb", metadata=None)
        out.write(IMAGE[..., 0] > 9, subfiletype=4, metadata=None)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as out:
        out.write(IMAGE, photometric="rgb", tile=(64, 64), metadata=None)
        for factor in (2, 4):
            small = np.ascontiguousarray(IMAGE[::factor, ::factor])
            out.write(small, photometric="rgb", tile=(64, 64), subfiletype=1, metadata=None)
    with tifffile.TiffWriter(tmp_path / "thumbs.tif") as out:
        for _ in range(3):
            out.write(IMAGE, photometric="rgb", metadata=None, contiguous=False)
        out.write(np.ascontiguousarray(IMAGE[::8, ::8]), photometric="rgb", subfiletype=1, metadata=None)
    pages(tmp_path / "fax.tif", STACK > 100)
    pages(tmp_path / "complex.tif", STACK.astype(np.complex64))
    for name in ("mask", "pyramid", "thumbs", "fax", "complex"):
        assert volume_kind(str(tmp_path / f"{name}.tif")) is None, name


def test_a_place_on_the_ground_makes_a_raster(tmp_path):
    pages(tmp_path / "a.tif", STACK)
    assert volume_kind(str(tmp_path / "a.tif")) == "tiff"
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n", encoding="utf-8")
    assert volume_kind(str(tmp_path / "a.tif")) is None
    profile = {"driver": "GTiff", "count": 4, "height": 20, "width": 30, "dtype": "uint8"}
    with rasterio.open(tmp_path / "b.tif", "w", **profile, transform=rasterio.Affine(1, 0, 5, 0, -1, 9)) as out:
        out.write(STACK)
    assert volume_kind(str(tmp_path / "b.tif")) is None


def test_content_says_what_it_is_and_not_the_name(tmp_path):
    nibabel.save(nibabel.Nifti1Image(STACK.T, np.eye(4)), tmp_path / "a.nii")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.nii").read_bytes())
    (tmp_path / "a").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: uchar\n")
    (tmp_path / "a.mhd").write_bytes(b"ObjectType = Image\nNDims = 3\nElementType = MET_UCHAR\nElementDataFile = a.raw\n")
    pages(tmp_path / "x.nii", STACK)
    kinds = {"a.nii": "nifti", "a.tif": "nifti", "a": "nifti", "a.nrrd": "itk", "a.mhd": "itk", "x.nii": "tiff"}

    assert {name: volume_kind(str(tmp_path / name)) for name in kinds} == kinds


def test_whole_slides_in_dicom_stay_slides(tmp_path):
    for name, sop_class in (("slide", WHOLE_SLIDE), ("ct", CT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.txt").write_text("about the patient", encoding="utf-8")
        dicom(tmp_path / name / "z.dcm", sop_class)

    assert volume_kind(str(tmp_path / "ct")) == "dicom"
    assert volume_kind(str(tmp_path / "ct" / "z.dcm")) == "dicom"
    assert volume_kind(str(tmp_path / "slide")) is None
    assert volume_kind(str(tmp_path / "slide" / "z.dcm")) is None
    assert is_slide(str(tmp_path / "slide" / "z.dcm"))


@pytest.mark.parametrize(
    "content",
    [b"", b"II*\0", b"MM\0*\0\0\0\x08", b"\x1f\x8b", b"\x1f\x8b\x08\0\0\0", b"NDims", b"\0" * 5000, b"<html>", b"PK\x03\x04",
     b"n+1\0"],
)  # fmt: skip
def test_odd_files_are_no_volumes_and_raise_nothing(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)

    assert volume_kind(str(tmp_path / "a.nii.gz")) is None


def test_odd_places_are_no_volumes_and_raise_nothing(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").mkdir()

    for path in (tmp_path / "nothing.nii", tmp_path / "loop", tmp_path / "empty", "/dev/null", "ftp://host/a.zarr", "a\0b"):
        assert volume_kind(str(path)) is None, path


def test_the_limit_of_pixels_holds_for_voxels(tmp_path):
    pages(tmp_path / "a.tif", STACK)

    with pytest.raises(SourceError, match="claims 2400 voxels"):
        open_volume_file(str(tmp_path / "a.tif"), Reading(max_pixels=2399))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
def test_real_images_and_slides_are_no_volumes():
    found = [p for part in ("wsi", "overhead") for p in sorted((SHARED / part).rglob("*.*")) if p.is_file()]

    assert found
    assert {volume_kind(str(path)) for path in found} == {None}
