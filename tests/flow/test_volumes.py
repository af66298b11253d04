"""The command on volumes of every kind: what comes out, options that fit or are refused, and results that depend on nothing
but the input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from support_dicom import write_series
from support_flow import FRAGILE, below, call, seggeo, succeed, write_model, write_picture
from support_volume_flow import TILED, boxes, files, nifti, oracle_folder, rows, same_objects

import seggeo as package

TRUTH = boxes((27, 45, 51))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A NIfTI whose values are labels, and the oracle."""
    folder = oracle_folder(tmp_path / "my data")
    nifti(folder / "scan one.nii.gz", TRUTH.T, "oblique")
    return folder


JOB = ("segment", "scan one.nii.gz", *TILED)


def labels(path: Path) -> NDArray[Any]:
    """Ids of a NIfTI, `(z, y, x)`."""
    return np.asarray(nibabel.load(path).dataobj).T


def test_complex_voxels_are_read_as_asked_for(folder: Path):
    nifti(folder / "wave.nii", (TRUTH.T * 1j).astype(np.complex64), "oblique")

    assert "use --complex abs" in call("segment", "wave.nii", *TILED, cwd=folder).refusal()[2]
    succeed("segment", "wave.nii", *TILED, "-o", "out", "--complex", "abs", cwd=folder)
    assert same_objects(labels(folder / "out" / "wave_labels.nii.gz"), TRUTH)


def test_a_volume_without_a_number_holds_nothing(folder: Path):
    nifti(folder / "void.nii", np.full((9, 8, 7), np.nan, np.float32), "oblique")

    (summary,) = succeed("segment", "void.nii", "--model", "threshold", "-o", "out", "--json", cwd=folder).results
    assert (summary["objects"], summary["empty_tiles"]) == (0, 7)


def test_all_outputs_of_a_volume(folder: Path):
    job = [word for word in JOB if word != "--no-preview"]

    (summary,) = succeed(*job, "-o", "out", "--json", cwd=folder).results

    out = folder / "out"
    assert {p.name for p in out.iterdir()} == {
        "scan one_masks", "scan one_labels.nii.gz", "scan one_objects.csv", "scan one_preview.png", "scan one_report.html",
        "scan one_provenance.json", "scan one.seggeo",
    }  # fmt: skip
    ids = labels(out / "scan one_labels.nii.gz")
    assert same_objects(ids, TRUTH)
    assert summary["objects"] == TRUTH.max() == len(rows(out / "scan one_objects.csv"))
    masks = sorted((out / "scan one_masks").iterdir())
    assert [p.name for p in masks] == [f"z{z:04d}.png" for z in range(27)]
    assert np.array_equal(np.stack([np.asarray(Image.open(p)) for p in masks]), ids)
    assert np.asarray(Image.open(out / "scan one_preview.png")).std() > 10
    assert "scan one.nii.gz" in (out / "scan one_report.html").read_text()


def test_masks_of_tall_slices_most_of_which_are_empty(folder: Path):
    truth = np.zeros((7, 1300, 40), np.uint8)
    truth[1:3, 1200:1290, 5:30], truth[2:6, 100:600, 3:8], truth[5, 700:720, 9:30] = 1, 2, 3
    tifffile.imwrite(folder / "tall.tif", truth, imagej=True, metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"})

    succeed("segment", "tall.tif", *TILED[:2], *TILED[6:], "-f", "masks", "-o", "out", cwd=folder)

    masks = [np.asarray(Image.open(path)) for path in sorted((folder / "out" / "tall_masks").iterdir())]
    assert same_objects(np.stack(masks), truth)


def test_surfaces_are_written_twice_in_a_row_and_never_over_others(folder: Path):
    job = (*JOB, "-f", "ply,obj,masks", "-o", "out", "--json")
    (summary,) = succeed(*job, cwd=folder).results
    before = files(folder / "out")
    meshes = folder / summary["outputs"]["ply"]
    assert len(list(meshes.glob("object_*.ply"))) == TRUTH.max()

    assert succeed(*job, cwd=folder).results == [summary]
    assert files(folder / "out") == before
    again = succeed(*job, "--overwrite", cwd=folder).results[0]
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    assert files(folder / "out") == before

    (meshes / "object_000001.ply").unlink()
    succeed(*job, "--overwrite", cwd=folder)
    assert files(folder / "out") == before
    (meshes / "notes.txt").write_text("mine")
    refused = call(*job, "--overwrite", cwd=folder)
    assert refused.code == 5, refused.err
    assert (meshes / "notes.txt").read_text() == "mine"
    assert len(list(meshes.iterdir())) == TRUTH.max() + 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("some labels.nii.gz", "nifti"), ("out.nii", "nifti"), ("objects.csv", "objects"), ("labels.tif", "ome-tiff"),
     ("labels.ome.tif", "ome-tiff"), ("labels.tiff", "ome-tiff"), ("l.ome.zarr", "ome-zarr"), ("l.mha", "mha"),
     ("l.nrrd", "nrrd")],
)  # fmt: skip
def test_a_file_that_is_named_is_what_is_written(folder: Path, name: str, kind: str):
    (summary,) = succeed(*JOB, "-o", name, "--json", cwd=folder).results

    assert summary["outputs"] == {kind: name}
    assert (folder / name).exists()


def test_the_same_labels_in_every_format(folder: Path):
    sitk = pytest.importorskip("SimpleITK")
    (summary,) = succeed(*JOB, "-f", "nifti,mha,nrrd,ome-tiff,masks", "-o", "out", "--json", cwd=folder).results
    outputs = {kind: folder / path for kind, path in summary["outputs"].items()}

    ids = labels(outputs["nifti"])
    assert same_objects(ids, TRUTH)
    for kind in ("mha", "nrrd"):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(outputs[kind]))), ids)
    assert np.array_equal(tifffile.imread(outputs["ome-tiff"]), ids)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["-f", "gpkg"], 2, ("-f gpkg for a volume", "masks,volume,objects")),
        (["-f", "objects,cells"], 2, ("-f cells for a volume",)),
        (["-o", "out/o.gpkg"], 2, ("-f gpkg for a volume",)),
        (["-f", "dicom-seg"], 5, ("refers to DICOM images", "-f nifti")),
        (["--gsd", "1"], 2, ("--gsd", "--spacing Z,Y,X")),
        (["--mpp", "1"], 2, ("--mpp", "--spacing")),
        (["--tissue", "auto"], 2, ("--tissue", "maps and slides")),
        (["--regions", "none.geojson"], 2, ("--regions",)),
        (["--axis", "t"], 2, ("axis",)),
        (["--time", "2"], 2, ("no 2",)),
        (["--channel", "dapi"], 2, ("dapi",)),
        (["--window", "brain"], 2, ("brain", "lung")),
        (["--spacing", "1,2"], 2, ("spacing",)),
        (["--series", "7"], 2, ("--series", "DICOM")),
        (["--allow-gaps"], 2, ("--allow-gaps", "DICOM")),
        (["--link", "magic"], 2, ("magic",)),
        (["--max-pixels", "1000"], 3, ("61965 voxels", "--max-pixels")),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_volume_is_refused_before_any_work(
    folder: Path, options: list[str], code: int, told: tuple[str, ...]
):
    before = below(folder)

    ran = call(*JOB, "-o", "out", *options, cwd=folder)

    assert ran.code == code, ran.err
    for text in told:
        assert text in ran.err
    assert ran.refusal()
    assert below(folder) == before


@pytest.mark.parametrize(
    "options",
    [["--axis", "y"], ["--time", "1"], ["--window", "lung"], ["--neighbours", "1"], ["--spacing", "1,1,1"], ["--series", "1"],
     ["--allow-gaps"], ["-f", "masks"], ["-f", "volume"], ["-f", "nifti"], ["-f", "ply"], ["-f", "objects"]],
)  # fmt: skip
def test_what_is_for_volumes_is_refused_for_an_image(folder: Path, options: list[str]):
    write_picture(folder / "map.tif", TRUTH[4].astype(np.int32))

    ran = call("segment", "map.tif", "--model", "threshold", *TILED[2:], "-o", "out", *options, cwd=folder)

    assert ran.code == 2, ran.err
    assert "one plane" in ran.err
    assert not (folder / "out").exists()


def test_cells_are_not_counted_in_a_volume(folder: Path):
    ran = call("count-cells", "scan one.nii.gz", "-o", "counts", cwd=folder)

    assert ran.code == 3, ran.err
    assert "scan one.nii.gz is a volume" in ran.err
    assert "seggeo segment" in ran.err


def test_info_on_every_format(folder: Path):
    sitk = pytest.importorskip("SimpleITK")
    write_series(folder / "ct", TRUTH.astype("<i2"))
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH), str(folder / "a.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH), str(folder / "a.mha"))
    tifffile.imwrite(folder / "a.tif", TRUTH, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"})
    for name, driver in (
        ("scan one.nii.gz", "NIfTI-1"), ("ct", "DICOM"), ("a.nrrd", "NRRD"), ("a.mha", "Meta"), ("a.tif", "ImageJ")
    ):  # fmt: skip
        facts = json.loads(succeed("info", name, "--json", cwd=folder).out)
        assert driver in facts["driver"]
        assert (facts["depth"], facts["height"], facts["width"]) == TRUTH.shape
        assert facts["work_grid"]["depth"] == 27
        text = succeed("info", name, cwd=folder).out
        assert f"driver: {facts['driver']}" in text


def test_a_window_of_a_ct_is_the_stretch_of_its_limits(folder: Path):
    hu = (np.random.default_rng(0).normal(0, 15, TRUTH.shape) + np.where(TRUTH > 0, 180, -40)).astype("<i2")
    nibabel.save(nibabel.Nifti1Image(hu.T, np.diag([0.8, 0.8, 2, 1])), folder / "ct.nii.gz")
    plain = [word for name in ("smooth=0", "min_area=0", "fill_holes=0", "split=false") for word in ("--set", name)]
    job = (
        "segment",
        "ct.nii.gz",
        "--model",
        "threshold",
        *plain,
        "--smooth",
        "0",
        *TILED[2:],
        "-f",
        "volume,objects",
        "--json",
    )

    for name, options in (
        ("soft", ["--window", "soft"]), ("pair", ["--window", "40,400"]), ("low", ["--stretch=-160,240"]),
        ("lung", ["--window", "lung"]),
    ):  # fmt: skip
        assert succeed(*job, *options, "-o", name, cwd=folder).results[0]["objects"] > 0
    assert files(folder / "soft") == files(folder / "pair") == files(folder / "low")
    assert files(folder / "soft") != files(folder / "lung")
    assert same_objects(labels(folder / "soft" / "ct_labels.nii.gz") > 0, TRUTH > 0)


def test_channels_and_colours(folder: Path):
    other = boxes(TRUTH.shape, seed=5)
    channels = np.stack([TRUTH, other], axis=1)
    tifffile.imwrite(folder / "two.ome.tif", channels, metadata={"axes": "ZCYX", "Channel": {"Name": ["dapi", "gfp"]}})
    colours = np.stack([TRUTH, other, TRUTH], axis=-1)
    tifffile.imwrite(folder / "rgb.tif", colours, imagej=True, photometric="rgb", metadata={"axes": "ZYXS"})

    for option, truth in ((["--channel", "gfp"], other), (["--channel", "1"], TRUTH)):
        (summary,) = succeed(
            "segment", "two.ome.tif", *TILED, *option, "-f", "volume", "-o", f"c{option[1]}", "--json", cwd=folder
        ).results
        assert same_objects(tifffile.imread(folder / summary["outputs"]["ome-tiff"]), truth)
    (summary,) = succeed("segment", "rgb.tif", *TILED, "-f", "volume", "-o", "rgb", "--json", cwd=folder).results
    assert same_objects(tifffile.imread(folder / summary["outputs"]["ome-tiff"]), TRUTH)


def test_frames_in_time_are_tracked(folder: Path):
    tifffile.imwrite(
        folder / "film.tif", TRUTH, imagej=True, resolution=(4, 4), metadata={"axes": "TYX", "finterval": 30.0, "unit": "um"}
    )

    (summary,) = succeed("segment", "film.tif", *TILED, "-o", "out", "--json", cwd=folder).results

    assert (folder / summary["outputs"]["masks"] / "t0026.png").exists()
    table = rows(folder / summary["outputs"]["objects"])
    assert len(table) == TRUTH.max()
    there = np.array([np.equal(TRUTH, i).any(axis=(1, 2)) for i in range(1, TRUTH.max() + 1)])
    assert sorted(int(row["frames"]) for row in table) == sorted(there.sum(axis=1).tolist())
    assert {row["missed_frames"] for row in table} == {"0"}
    assert "volume_um3" not in table[0]
    assert "series in time" in call("segment", "film.tif", *TILED, "-f", "ply", "-o", "two", cwd=folder).err


def test_without_links_every_cross_section_is_an_object(folder: Path):
    (summary,) = succeed(*JOB, "--link", "none", "-f", "volume,objects", "-o", "out", "--json", cwd=folder).results

    assert summary["objects"] == sum(len(np.unique(plane)) - 1 for plane in TRUTH)
    assert np.array_equal(labels(folder / summary["outputs"]["nifti"]) > 0, TRUTH > 0)


def test_the_library_gives_what_the_command_gives(folder: Path):
    succeed(*JOB, "-f", "volume,objects", "-o", "command", cwd=folder)

    summary = package.segment(
        folder / "scan one.nii.gz", folder / "library", model=f"{folder / 'oracle.py'}:Oracle", tile=32, overlap=8, workers=1,
        preview=False, format=("volume", "objects"),
    )  # fmt: skip

    assert summary["objects"] == TRUTH.max()
    assert files(folder / "library") == files(folder / "command")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told_at_once(folder: Path):
    (folder / "closed").mkdir(mode=0o555)

    ran = call(*JOB, "-o", "closed", cwd=folder)

    assert ran.code == 5, ran.err
    assert "cannot be written to" in ran.err


def test_results_lie_elsewhere_when_the_input_cannot_be_written_beside(folder: Path):
    closed = folder / "closed"
    write_series(closed, TRUTH.astype("<i2"))
    before = below(closed)
    closed.chmod(0o555)
    try:
        succeed("segment", "closed", *TILED, "-o", "out", cwd=folder)
    finally:
        closed.chmod(0o755)
    assert below(closed) == before


LAWS = ("-f", "volume,objects,masks,ply")
MANY = boxes((18, 100, 120))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of several parts, and its result by one process in `whole`."""
    folder = oracle_folder(tmp_path_factory.mktemp("laws"))
    nifti(folder / "scan.nii.gz", MANY.T, "oblique")
    succeed("segment", "scan.nii.gz", *TILED, *LAWS, "-o", "whole", cwd=folder)
    assert same_objects(labels(folder / "whole" / "scan_labels.nii.gz"), MANY)
    return folder


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_bytes(whole: Path, workers: int):
    ran = seggeo("segment", "scan.nii.gz", *TILED, *LAWS, "--workers", str(workers), "-o", f"w{workers}", cwd=whole)

    assert ran.code == 0, ran.err
    assert files(whole / f"w{workers}") == files(whole / "whole")


def test_shards_in_any_order_give_the_same_bytes(whole: Path):
    succeed("plan", "segment", "scan.nii.gz", *TILED, *LAWS, "-o", "sharded", "--job", "job", "--shards", "3", cwd=whole)
    early = call("merge", "job", cwd=whole)
    for part in (3, 1, 2):
        succeed("run", "job", "--part", f"{part}/3", "--workers", "1", cwd=whole)
    succeed("merge", "job", cwd=whole)

    assert early.code != 0
    assert files(whole / "sharded") == files(whole / "whole")


@pytest.mark.parametrize(("tile", "overlap"), [("24", "6"), ("64", "16"), ("512", "64")])
def test_tiles_of_any_size_give_the_same_objects(whole: Path, tile: str, overlap: str):
    tiling = [*TILED[:2], "--tile", tile, "--overlap", overlap, *TILED[6:]]

    succeed("segment", "scan.nii.gz", *tiling, "-f", "volume", "-o", f"t{tile}", cwd=whole)

    assert np.array_equal(labels(whole / f"t{tile}" / "scan_labels.nii.gz"), labels(whole / "whole" / "scan_labels.nii.gz"))


def test_a_bad_tile_of_a_volume_costs_that_tile_alone(whole: Path):
    write_model(whole, FRAGILE, "fragile.py")
    job = ["segment", "scan.nii.gz", "--model", "fragile.py:Fragile", *TILED[2:], "-f", "volume", "-o", "broken"]
    (whole / "broken.flag").touch()
    environment = {"BROKEN": str(whole / "broken.flag")}

    failed = call(*job, cwd=whole, **environment)

    assert failed.code == 4, failed.err
    (failure,) = json.loads((whole / "broken" / "scan_provenance.json").read_text())["failures"]
    found, truth = labels(whole / "broken" / "scan_labels.nii.gz"), MANY
    z, row, col = (failure.get("z", 0), failure["row"], failure["col"])
    away = np.ones(truth.shape, bool)
    away[z, row : row + 32, col : col + 32] = False
    assert np.array_equal((found > 0)[away], (truth > 0)[away])

    (whole / "broken.flag").unlink()
    succeed(*job, cwd=whole, **environment)
    assert np.array_equal(labels(whole / "broken" / "scan_labels.nii.gz"), labels(whole / "whole" / "scan_labels.nii.gz"))
