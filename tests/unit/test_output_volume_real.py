"""Labels of real volumes, sliced along any axis, lie on what they were made of."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from support_volume import volume_of

from seggeo.config import Reading
from seggeo.io.volume import open_volume
from seggeo.output.nifti_labels import write_nifti
from seggeo.output.ome_tiff import write_ome_tiff
from seggeo.output.ome_zarr import write_ome_zarr
from seggeo.protocols import SinkOptions

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CT = SHARED / "volumes" / "ct_pelvis" / "ct.nii.gz"
NUCLEI = SHARED / "microscopy3d" / "ovule_nuclei_1136.ome.zarr"
STACK = SHARED / "microscopy3d" / "ovule_nuclei_1135.ome.tif"


def labelled(path, axis, level):
    """The result in which what is brighter than `level` has the number of the slice it was found in, and its frame."""
    if not path.exists():
        pytest.skip(f"{path} is not there")
    source = open_volume(str(path), Reading(axis=axis, channel=("1",)), native=True)
    try:
        frame = source.frame
        voxels = np.stack([source.read(frame.window, z).data[..., 0] for z in range(frame.depth)])
    finally:
        source.close()
    return volume_of((voxels > level) * np.arange(1, frame.depth + 1)[:, None, None], frame), frame


@pytest.mark.parametrize("axis", ["z", "sagittal", "coronal"])
def test_bones_of_a_ct(axis, tmp_path):
    result, frame = labelled(CT, axis, 300)
    path = write_nifti(result, tmp_path / "l.nii.gz", SinkOptions())
    ours, theirs = nib.load(path), nib.load(CT)
    found = np.asarray(ours.dataobj)
    along = 2 - frame.placement.axes[0]

    assert ours.affine.tobytes() == theirs.affine.tobytes()
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        assert ours.header[field].tobytes()[:16] == theirs.header[field].tobytes()[:16]
    assert np.array_equal(found > 0, np.asarray(theirs.dataobj) > 300)
    others = tuple({0, 1, 2} - {along})
    assert np.array_equal(found.max(axis=others), np.arange(1, frame.depth + 1) * found.any(axis=others))
    a, b = sitk.ReadImage(str(path)), sitk.ReadImage(str(CT))
    assert (a.GetOrigin(), a.GetSpacing(), a.GetDirection()) == (b.GetOrigin(), b.GetSpacing(), b.GetDirection())


@pytest.mark.parametrize("axis", ["z", "x"])
def test_nuclei_of_an_ome_zarr(axis, tmp_path):
    result, _ = labelled(NUCLEI, axis, 100)
    path = write_ome_zarr(result, tmp_path / "l.ome.zarr", SinkOptions())
    ours, theirs = (json.loads((p / ".zattrs").read_text())["multiscales"][0] for p in (path / "labels/objects", NUCLEI))
    image = zarr.open_array(NUCLEI / theirs["datasets"][0]["path"], mode="r")[:]
    label = zarr.open_array(path / "labels/objects/0", mode="r")[:]

    assert np.array_equal(label > 0, image.reshape(-1, *label.shape)[0] > 100)
    (scale,) = (step["scale"][-3:] for step in theirs["datasets"][0]["coordinateTransformations"] if "scale" in step)
    assert ours["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx(scale)


@pytest.mark.parametrize("axis", ["z", "y"])
def test_nuclei_of_an_ome_tiff(axis, tmp_path):
    result, _ = labelled(STACK, axis, 100)
    path = write_ome_tiff(result, tmp_path / "l.ome.tif", SinkOptions())
    with tifffile.TiffFile(path) as ours, tifffile.TiffFile(STACK) as theirs:
        label, image = ours.asarray(), theirs.asarray()
        a, b = (tifffile.xml2dict(f.ome_metadata)["OME"]["Image"]["Pixels"] for f in (ours, theirs))
    assert np.array_equal(label > 0, image.reshape(-1, *label.shape)[0] > 100)
    assert [a[f"PhysicalSize{k}"] for k in "XYZ"] == pytest.approx([b[f"PhysicalSize{k}"] for k in "XYZ"])
