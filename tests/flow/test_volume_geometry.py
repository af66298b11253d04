"""Where labels of a volume lie: the world coordinates of every voxel are those of the input, or the input is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from support_dicom import Shape, oblique, save, slice_of, write_series
from support_flow import Ran, call, succeed
from support_volume_flow import AFFINES, TILED, boxes, centroids, column, nifti, oracle_folder, rows, same_objects

sitk = pytest.importorskip("SimpleITK")

SIDES = ("z", "y", "x", "axial", "coronal", "sagittal")
TRUTH = boxes((27, 45, 51))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return oracle_folder(tmp_path / "a folder")


def run(folder: Path, name: str, *options: str) -> Ran:
    return succeed("segment", name, *TILED, *options, "-o", "out", "--json", cwd=folder)


def refused(folder: Path, name: str, *options: str, code: int) -> str:
    ran = call("segment", name, *TILED, *options, "-o", "out", cwd=folder)
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert not list((folder / "out").glob("*_*")), "something was written"
    return ran.err


def points(path: Path) -> NDArray[np.float64]:
    """LPS of three voxels, x, y and z of the file, as SimpleITK has it."""
    image = sitk.ReadImage(str(path))
    last = [n - 1 for n in image.GetSize()[:3]]
    return np.array([image.TransformIndexToPhysicalPoint(index) for index in ([0, 0, 0], [3, 5, 7], last)])


@pytest.mark.parametrize(
    ("kind", "axis"), [*(("oblique", axis) for axis in SIDES), *((kind, "z") for kind in AFFINES[1:]), ("flipped", "coronal")]
)
def test_a_nifti_of_any_affine_sliced_along_any_axis(folder: Path, kind: str, axis: str):
    truth = TRUTH.T
    source = nifti(folder / "scan.nii.gz", truth, kind)

    (summary,) = run(folder, source.name, "-f", "volume,objects", "--axis", axis).results

    found, given = nibabel.load(folder / summary["outputs"]["nifti"]), nibabel.load(source)
    assert same_objects(np.asarray(found.dataobj), truth)
    assert summary["objects"] == TRUTH.max()
    assert np.array_equal(found.affine, given.affine)
    for form in ("sform_code", "qform_code", "pixdim", "quatern_b", "qoffset_x", "srow_x"):
        assert np.array_equal(found.header[form], given.header[form]), form
    assert found.header.get_xyzt_units()[0] == "mm"
    if kind != "sheared":  # which ITK has no room for
        np.testing.assert_allclose(points(folder / summary["outputs"]["nifti"]), points(source), atol=1e-9)
    table = rows(folder / summary["outputs"]["objects"])
    ids = np.asarray(found.dataobj)
    expected = nibabel.affines.apply_affine(given.affine, centroids(ids))
    np.testing.assert_allclose(column(table, "x_mm", "y_mm", "z_mm"), expected, atol=1e-4)
    assert column(table, "voxels")[:, 0].tolist() == np.bincount(ids.ravel())[1:].tolist()
    volume = abs(np.linalg.det(given.affine[:3, :3]))
    np.testing.assert_allclose(column(table, "volume_mm3")[:, 0], np.bincount(ids.ravel())[1:] * volume, rtol=1e-5)


@pytest.mark.parametrize("axis", ["z", "x", "coronal"])
def test_a_dicom_series_and_its_labels_are_in_one_place(folder: Path, axis: str):
    shape = oblique(2)
    write_series(folder / "ct", TRUTH.astype("<i2"), shape)

    (summary,) = run(folder, "ct", "-f", "volume,mha,objects", "--axis", axis).results

    found = sitk.ReadImage(str(folder / summary["outputs"]["nifti"]))
    ids = sitk.GetArrayFromImage(found)
    assert same_objects(ids, TRUTH)
    assert same_objects(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / summary["outputs"]["mha"]))), TRUTH)
    for path in (summary["outputs"]["nifti"], summary["outputs"]["mha"]):
        image = sitk.ReadImage(str(folder / path))
        for z, row, col in ((0, 0, 0), (3, 5, 7), (26, 44, 50)):
            lies = image.TransformIndexToPhysicalPoint([col, row, z])
            np.testing.assert_allclose(lies, shape.matrix @ [z, row, col, 1], atol=1e-3)
    table = rows(folder / summary["outputs"]["objects"])
    expected = np.c_[centroids(ids), np.ones(ids.max())] @ shape.matrix.T
    np.testing.assert_allclose(column(table, "x_mm", "y_mm", "z_mm"), expected, atol=1e-3)


def test_a_dicom_segmentation_lies_where_its_images_lie(folder: Path):
    highdicom = pytest.importorskip("highdicom")
    shape = oblique(3)
    write_series(folder / "ct", TRUTH.astype("<i2"), shape)

    (summary,) = run(folder, "ct", "-f", "dicom-seg,volume").results

    found = highdicom.seg.segread(folder / summary["outputs"]["dicom-seg"]).get_volume(combine_segments=True)
    ids = nibabel.load(folder / summary["outputs"]["nifti"]).get_fdata().T
    order = np.argmax(np.abs(found.affine[:3, :3].T @ shape.matrix[:, :3]), axis=0).tolist()
    turned = found.array.transpose(order)
    is_back = [float(found.affine[:3, axis] @ shape.matrix[:, i]) < 0 for i, axis in enumerate(order)]
    turned = turned[tuple(slice(None, None, -1) if back else slice(None) for back in is_back)]
    assert same_objects(turned, TRUTH)
    assert same_objects(turned, ids)
    for i, (axis, back) in enumerate(zip(order, is_back, strict=True)):
        np.testing.assert_allclose(found.affine[:3, axis] * (-1 if back else 1), shape.matrix[:, i], atol=1e-4)
    first = [found.shape[axis] - 1 if is_back[order.index(axis)] else 0 for axis in range(3)]
    np.testing.assert_allclose(found.affine @ [*first, 1], [*shape.matrix[:, 3], 1], atol=1e-3)


def test_a_slice_that_is_missing_is_told_with_its_place(folder: Path):
    write_series(folder / "ct", TRUTH.astype("<i2"), Shape(), skip=[2, 3, 12])

    told = refused(folder, "ct", code=3)

    assert "3 slices of ct are missing" in told
    assert "2 between 102.50 and 110.00 mm, 1 between 127.50 and 132.50 mm" in told
    assert "--allow-gaps" in told


@pytest.mark.parametrize("axis", ["z", "x"])
def test_a_gap_that_is_allowed_leaves_everything_else_in_its_place(folder: Path, axis: str):
    gone = [2, 12, 21]
    write_series(folder / "ct", TRUTH.astype("<i2"), Shape(), skip=gone)

    (summary,) = run(folder, "ct", "-f", "volume,objects", "--axis", axis, "--allow-gaps").results

    image = sitk.ReadImage(str(folder / summary["outputs"]["nifti"]))
    ids, truth = sitk.GetArrayFromImage(image), TRUTH.copy()
    truth[gone] = 0
    assert not ids[gone].any()
    assert (ids.max() == TRUTH.max()) if axis == "z" else (ids.max() >= TRUTH.max())
    assert same_objects(ids, truth) if axis == "z" else np.array_equal(ids > 0, truth > 0)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint([0, 0, 26]), [-30, 12.5, 165], atol=1e-4)


def test_two_series_in_a_folder_are_listed_and_one_is_chosen(folder: Path):
    write_series(folder / "ct" / "one", TRUTH.astype("<i2"))
    more = {"SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.7.2", "SeriesNumber": 9, "SeriesDescription": "thick slices"}
    write_series(folder / "ct" / "two", TRUTH[:9].astype("<i2"), **more)

    told = refused(folder, "ct", code=2)

    assert "4: thin slices, CT, 27 images of 45 x 51" in told
    assert "9: thick slices, CT, 9 images of 45 x 51" in told
    (summary,) = run(folder, "ct", "-f", "volume", "--series", "9").results
    assert same_objects(nibabel.load(folder / summary["outputs"]["nifti"]).get_fdata().T, TRUTH[:9])


def test_a_scout_in_the_series_is_not_guessed_away(folder: Path):
    write_series(folder / "ct", TRUTH.astype("<i2"))
    scout = slice_of(TRUTH[0].astype("<i2"), 0, Shape(orientation=(0, 1, 0, 0, 0, -1)), number=99)
    save(scout, folder / "ct" / "scout.dcm")

    assert "orientations, such as a scout beside a scan" in refused(folder, "ct", code=3)


def test_a_gantry_that_was_tilted_is_told_and_followed(folder: Path):
    shape = oblique(5, tilt=12.0)
    write_series(folder / "ct", TRUTH.astype("<i2"), shape)

    ran = run(folder, "ct", "-f", "volume,objects")

    assert "gantry tilt" in ran.err
    found = nibabel.load(folder / ran.results[0]["outputs"]["nifti"])
    lies = nibabel.affines.apply_affine(found.affine, [7, 5, 3])
    np.testing.assert_allclose(lies * [-1, -1, 1], shape.matrix @ [3, 5, 7, 1], atol=1e-3)


def test_a_volume_of_several_times_is_refused_until_one_is_named(folder: Path):
    times = np.stack([TRUTH.T, TRUTH.T[::-1]], axis=3)
    nifti(folder / "times.nii", times, "oblique")

    assert "--time 1" in refused(folder, "times.nii", code=2)

    assert "no 3" in refused(folder, "times.nii", "--time", "3", code=2)
    (summary,) = run(folder, "times.nii", "-f", "volume", "--time", "2").results
    found = nibabel.load(folder / summary["outputs"]["nifti"])
    assert same_objects(np.asarray(found.dataobj), times[..., 1])
    assert np.array_equal(found.affine, nibabel.load(folder / "times.nii").affine)


def test_one_slice_is_a_volume_of_one(folder: Path):
    source = nifti(folder / "one.nii.gz", TRUTH.T[:, :, 4:5].copy(), "oblique")

    (summary,) = run(folder, source.name).results

    assert set(summary["outputs"]) == {"masks", "nifti", "objects"}
    found = nibabel.load(folder / summary["outputs"]["nifti"])
    assert found.shape == (51, 45, 1)
    assert same_objects(np.asarray(found.dataobj), TRUTH.T[:, :, 4:5])
    assert np.array_equal(found.affine, nibabel.load(source).affine)
    assert "have no surfaces" in call("segment", source.name, *TILED, "-f", "ply", "-o", "two", cwd=folder).err


@pytest.mark.parametrize(("ending", "axis"), [("nrrd", "z"), ("nrrd", "sagittal"), ("mha", "y")])
def test_nrrd_and_mha_keep_origin_direction_and_spacing(folder: Path, ending: str, axis: str):
    image = sitk.GetImageFromArray(TRUTH)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    image.SetDirection((turn * np.sign(np.linalg.det(turn))).ravel().tolist())
    image.SetOrigin((10.5, -3.25, 77.0))
    image.SetSpacing((0.7, 0.9, 2.0))
    sitk.WriteImage(image, str(folder / f"scan.{ending}"), useCompression=True)

    (summary,) = run(folder, f"scan.{ending}", "-f", "volume,mha,objects", "--axis", axis).results

    for kind in ("nrrd", "mha"):
        found = sitk.ReadImage(str(folder / summary["outputs"][kind]))
        for what in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(found, what)(), getattr(image, what)(), atol=1e-12)
        assert same_objects(sitk.GetArrayFromImage(found), TRUTH)
    table, ids = rows(folder / summary["outputs"]["objects"]), sitk.GetArrayFromImage(found)
    expected = [image.TransformContinuousIndexToPhysicalPoint(c[::-1].tolist()) for c in centroids(ids)]
    np.testing.assert_allclose(column(table, "x_mm", "y_mm", "z_mm"), expected, atol=1e-5)


def ome_zarr(path: Path, data: NDArray[Any], scale: list[float], names: str = "zyx") -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=data, chunks=tuple(min(16, n) for n in data.shape))
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": n, "type": kinds.get(n, "space"), **({} if n in kinds else {"unit": "micrometer"})} for n in names]
    placed = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [4.0 * s for s in scale]}]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": placed}]}
    ]
    return path


@pytest.mark.parametrize("axis", ["z", "x"])
def test_labels_of_an_ome_zarr_have_its_scale_and_place(folder: Path, axis: str):
    ome_zarr(folder / "stack.ome.zarr", TRUTH, [2.0, 0.5, 0.25])

    (summary,) = run(folder, "stack.ome.zarr", "-f", "volume,objects", "--axis", axis).results

    labels = zarr.open_group(folder / summary["outputs"]["ome-zarr"], mode="r")["labels/objects"]
    attributes = dict(labels.attrs)
    image = attributes.get("ome", attributes)["multiscales"][0]
    ids = labels[image["datasets"][0]["path"]][:]
    assert same_objects(ids, TRUTH)
    placed = image["datasets"][0]["coordinateTransformations"]
    assert placed[0]["scale"] == [2.0, 0.5, 0.25]
    assert placed[1]["translation"] == [8.0, 2.0, 1.0]
    table = rows(folder / summary["outputs"]["objects"])
    expected = (centroids(ids)[:, ::-1] + 4) * [0.25, 0.5, 2.0]
    np.testing.assert_allclose(column(table, "x_um", "y_um", "z_um"), expected, atol=1e-5)


def test_a_stack_of_tiff_keeps_its_spacing_and_says_when_it_has_none(folder: Path):
    tifffile.imwrite(
        folder / "stack.tif", TRUTH, imagej=True, resolution=(4, 4), metadata={"spacing": 1.5, "unit": "um", "axes": "ZYX"}
    )
    tifffile.imwrite(folder / "bare.tif", TRUTH, photometric="minisblack")

    (summary,) = run(folder, "stack.tif").results
    bare = run(folder, "bare.tif", "-f", "objects")
    said = succeed(
        "segment", "bare.tif", *TILED, "-f", "objects", "--spacing", "1.5,0.25,0.25", "-o", "said", "--json", cwd=folder
    )

    table, ids = rows(folder / summary["outputs"]["objects"]), tifffile.imread(folder / summary["outputs"]["ome-tiff"])
    assert same_objects(ids, TRUTH)
    np.testing.assert_allclose(column(table, "x_um", "y_um", "z_um"), centroids(ids)[:, ::-1] * [0.25, 0.25, 1.5], atol=1e-4)
    assert "does not say the size of its voxels" in bare.err
    assert "x_px" in rows(folder / bare.results[0]["outputs"]["objects"])[0]
    again = rows(folder / said.results[0]["outputs"]["objects"])
    np.testing.assert_allclose(column(again, "volume_um3"), column(table, "volume_um3"), rtol=1e-4)
    with tifffile.TiffFile(folder / summary["outputs"]["ome-tiff"]) as tiff:
        assert 'PhysicalSizeZ="1.5"' in tiff.ome_metadata
