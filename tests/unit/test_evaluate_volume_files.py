"""Label volumes of every format give the same scores, and two grids are refused with what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support_evaluate_volume import Labels, along, one_pair
from support_flow import call, succeed

import seggeo
from seggeo.errors import ConfigError, SeggeoError, SourceError
from seggeo.evaluation.rows import write_csv
from seggeo.evaluation.volume_grid import check_volumes
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.geometry import matrix_of
from seggeo.io.volume_file import VolumeFacts

DATA = Path(__file__).parents[3] / "shared" / "data"


def facts(**changes: object) -> VolumeFacts:
    plain: dict[str, object] = {
        "kind": "NIfTI-1", "family": "nifti", "shape": (10, 20, 30), "dtype": np.dtype(np.uint16), "space": "RAS", "unit": "mm",
        "matrix": matrix_of([[0, 0, 2, -5], [0, 3, 0, 7], [4, 0, 0, 11]]),
    }  # fmt: skip
    return VolumeFacts(**{**plain, **changes})  # type: ignore[arg-type]


class Described:
    """A volume of which only the facts are looked at."""

    def __init__(self, own: VolumeFacts) -> None:
        self.facts = own


def placed(**changes: object) -> LabelVolume:
    return LabelVolume(name="side.nii", file=Described(facts(**changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": (10, 20, 31)}, "10 x 20 x 31 and 10 x 20 x 30"),
        ({"shape": (30, 20, 10)}, "axes may be in another order"),
        ({"matrix": matrix_of([[0, 0, 2, -5], [0, 3, 0, 7], [-4, 0, 0, 47]])}, "mirrored along z;"),
        ({"matrix": matrix_of([[0, 0, -2, 53], [0, -3, 0, 64], [4, 0, 0, 11]])}, "mirrored along row, column;"),
        ({"matrix": matrix_of([[0, 0, 2, -1], [0, 3, 0, 7], [4, 0, 0, 11]])}, "shifted by 0, 0, 2 voxels"),
        ({"matrix": matrix_of([[0, 0, 2, -5], [0, 3, 0, 7], [4.4, 0, 0, 11]])}, "differ in size or direction"),
        ({"matrix": matrix_of([[0, 2, 0, -5], [0, 0, 3, 7], [4, 0, 0, 11]])}, "axes are in another order"),
        ({"space": "LPS"}, "mirrored along row, column and shifted by"),
    ],
)
def test_volumes_of_two_places_are_refused_with_the_difference(changed: dict[str, object], words: str):
    with pytest.raises(SourceError) as refusal:
        check_volumes(placed(**changed), placed())

    assert words in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_one_place_in_two_conventions_is_one_place():
    lps = matrix_of([[0, 0, -2, 5], [0, -3, 0, -7], [4, 0, 0, 11]])
    rounded = matrix_of(np.array([[0, 0, 2, -5], [0, 3, 0, 7], [4, 0, 0, 11]]) + np.float64(1e-4))

    assert check_volumes(placed(space="LPS", matrix=lps), placed()) == ()
    assert check_volumes(placed(matrix=rounded), placed()) == ()
    assert check_volumes(placed(matrix=np.array(facts().matrix) * 1000, unit="um"), placed()) == ()
    assert check_volumes(placed(warnings=("tilted",)), placed()) == ("side.nii: tilted",)
    (silent,) = check_volumes(placed(space="", unit="px"), placed())
    assert "does not say where it lies" in silent
    (sizes,) = check_volumes(placed(space=""), placed(space="", matrix=np.array(facts().matrix) * 2))
    assert "voxel sizes differ" in sizes


STEPS = 2.0, 0.5, 0.25


def write_nifti(path: Path, labels: Labels, signs: tuple[int, int] = (-1, -1)) -> Path:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    affine = np.diag([signs[0] * STEPS[2], signs[1] * STEPS[1], STEPS[0], 1])
    # As ITK, whose first voxel is the most right and anterior one here: mirrored axes start at their other end.
    affine[:2, 3] = [
        0 if s < 0 else -step * (n - 1) for s, step, n in zip(signs, STEPS[:0:-1], labels.shape[:0:-1], strict=True)
    ]
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint16).T, affine), path)
    return path


def write_zarr(path: Path, labels: Labels) -> Path:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale = {"type": "scale", "scale": list(STEPS)}
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for group in (root, root.create_group("labels/nuclei")):
        group.attrs["multiscales"] = [image]
        group.create_array("0", data=labels.astype(np.uint32), chunks=(5, 16, 16))
    return path


def write_masks(folder: Path, labels: Labels) -> Path:
    import tifffile

    folder.mkdir()
    for z, plane in enumerate(labels):
        tifffile.imwrite(folder / f"slice_{z}.tif", plane.astype(np.uint16))
    return folder


def write_tiff(path: Path, labels: Labels) -> Path:
    import tifffile

    tifffile.imwrite(path, labels.astype(np.uint16), ome=True, metadata={"axes": "ZYX"}, compression="zlib")
    return path


def write_mha(path: Path, labels: Labels) -> Path:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    image = sitk.GetImageFromArray(labels.astype(np.uint16))
    image.SetSpacing(STEPS[::-1])
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_npy(path: Path, labels: Labels) -> Path:
    np.save(path, labels.astype(">i4"))
    return path


WRITERS = {
    "labels.nii.gz": write_nifti, "labels.mha": write_mha, "labels.nrrd": write_mha, "labels.ome.tif": write_tiff,
    "labels.npy": write_npy, "masks": write_masks, "labels.zarr": write_zarr,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_scores_of_the_array(name: str, tmp_path: Path):
    truth, pred = one_pair(700)
    expected = seggeo.evaluate(pred, truth).to_json()
    path = WRITERS[name](tmp_path / name, pred)
    other = write_nifti(tmp_path / "truth.nii.gz", truth)
    found = seggeo.evaluate(path, other).to_json()

    assert {**found, "per_image": [], "notes": []} == {**expected, "per_image": [], "notes": []}
    # NIfTI, MHA and NRRD say where they lie; of the others a reader is told.
    assert len(found["notes"]) == (name not in ("labels.nii.gz", "labels.mha", "labels.nrrd"))


def test_mirrored_files_are_refused_and_not_turned(tmp_path: Path):
    labels = one_pair(700)[0]
    truth = write_mha(tmp_path / "truth.mha", labels)
    turned = write_nifti(tmp_path / "turned.nii.gz", labels[:, :, ::-1], (1, -1))

    with pytest.raises(SourceError, match="mirrored along column;"):
        seggeo.evaluate(turned, truth)


def test_the_labels_of_a_picture_are_found_and_never_guessed(tmp_path: Path):
    labels = one_pair(700)[0]
    picture = write_zarr(tmp_path / "picture.zarr", labels)

    assert seggeo.evaluate(picture, picture / "labels" / "nuclei").pooled.pq == 1
    write_zarr(picture / "labels" / "cells", labels)
    with pytest.raises(ConfigError, match="cells, nuclei"):
        seggeo.evaluate(picture, labels)


def test_folders_are_data_sets_of_volumes_or_slices_of_one(tmp_path: Path):
    truth, pred = one_pair(800)
    for side, labels in (("truth", truth), ("pred", pred)):
        write_masks(tmp_path / f"{side}_slices", labels)
        (tmp_path / side).mkdir()
        for i in range(2):
            write_nifti(tmp_path / side / f"{i}.nii.gz", labels[i:])
    whole, flat = seggeo.evaluate(pred, truth), tmp_path / "pred_slices"
    two = seggeo.evaluate(tmp_path / "pred", tmp_path / "truth")
    stacked = seggeo.evaluate(flat, tmp_path / "truth_slices", stack=True)

    assert str(stacked.pooled) == str(whole.pooled)
    assert whole.pooled.tp == 2
    assert seggeo.evaluate(flat, tmp_path / "truth_slices").along_z is None
    assert (len(two.images), along(two).slices) == (2, 2 * len(truth) - 1)
    for options, word in (({"run": tmp_path}, "job.json"), ({"image": flat}, "--image"), ({"link_gap": -1}, "--link-gap")):
        with pytest.raises(SeggeoError, match=word):
            seggeo.evaluate(pred, truth, **options)


def test_a_slice_of_another_size_is_named(tmp_path: Path):
    truth, pred = one_pair(800)
    folder = write_masks(tmp_path / "masks", pred)
    write_masks(tmp_path / "other", pred[:, 1:])
    (tmp_path / "other" / "slice_7.tif").replace(folder / "slice_7.tif")

    with pytest.raises(SourceError, match="slice_7.tif is not of the size"):
        seggeo.evaluate(folder, truth)


def test_real_labels_are_themselves():
    path = DATA / "microscopy3d" / "ovule_nuclei_1135_label.ome.tif"
    if not path.exists():
        pytest.skip("the shared microscopy volumes are not here")
    same = seggeo.evaluate(path, path)

    assert same.pooled.n_true == 54
    assert same.pooled.pq == 1
    assert along(same).slice_pq == 1
    assert (along(same).splits, along(same).merges, along(same).reused_ids) == (0, 0, 0)
    assert same.notes == ()


def test_the_page_is_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from support_docs import code_blocks, tables

    truth, pred = one_pair(900)
    result = seggeo.evaluate(pred, truth)
    write_csv(tmp_path / "rows.csv", result.rows.items())
    header = (tmp_path / "rows.csv").read_text().splitlines()[0].replace('"', "").split(",")
    page = "evaluation-volumes.md"

    assert [row[0] for row in tables(page, "What is counted")[1:]] == list(result.to_json()["along_z"])
    assert [row[0] for row in tables(page, "One row per object of a volume")[1:]] == header
    (block,) = code_blocks(page, "python")
    exec(block, {})
    assert capsys.readouterr().out == "0.0 1.0 1\n"


def test_the_command_prints_what_python_gives(tmp_path: Path):
    truth, pred = one_pair(900)
    own, true = write_tiff(tmp_path / "own.ome.tif", pred), write_npy(tmp_path / "true.npy", truth)
    result = seggeo.evaluate(own, true)
    (printed,) = succeed("evaluate", own, true, "--json", cwd=tmp_path).results
    table = succeed("evaluate", own, true, "--figure", "errors.png", "--per-object", "rows.csv", cwd=tmp_path).out
    small = write_npy(tmp_path / "small.npy", truth[1:])

    assert printed == {**json.loads(json.dumps(result.to_json())), "outputs": {}}
    assert f"in voxels; along z over {len(truth)} slices:" in table
    assert (tmp_path / "errors.png").stat().st_size > 10_000
    assert call("evaluate", own, small, cwd=tmp_path).code == 3
