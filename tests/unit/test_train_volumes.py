"""Volumes as training data: every slice an image as `seggeo segment` shows it, and splits that keep neighbours together."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from safetensors.numpy import save_file
from support_io import noise, write
from support_volume import blobs

from seggeo.config import Execution, Reading, Settings
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame, Placement, Window, matrix_of
from seggeo.models.preferences import preferred
from seggeo.models.unet_arch import UNetShape
from seggeo.run.plan import make_plan
from seggeo.train import folder
from seggeo.train.examples import Example, find_examples
from seggeo.train.sampler import diameters_of
from seggeo.train.scene_opening import open_scenes
from seggeo.train.seen import slices_of, smoothing_of, stretch_of
from seggeo.train.unet_task import UNetTask
from seggeo.train.validation_split import split_scenes
from seggeo.train.volume_opening import EMPTY_SHARE

SHAPE = (9, 40, 50)
AFFINE = np.diag([-0.5, -0.5, 2.0, 1.0])
IMAGE = np.random.default_rng(3).integers(0, 255, SHAPE).astype(np.uint8)
LABELS = blobs(4, SHAPE, 60)
PLAIN = Reading(stretch="none", smooth=0.0)


def stack(path, array):
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZYX"})
    return path


def nifti(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def mha(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.5, 2.0))  # the place of AFFINE, in LPS
    sitk.WriteImage(image, str(path))
    return path


def npy(path, array):
    np.save(path, array)
    return path


def masks(path, array):
    path.mkdir()
    for z, plane in enumerate(array):
        write(path / f"slice{z}.tif", plane[None])
    return path


def ome_zarr(path, array, inside=""):
    root = zarr.open_group(str(path), mode="a", zarr_format=2, path=inside)
    root.create_array("0", data=array, chunks=(2, 32, 32))
    axes = [{"name": n, "type": "space"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    root.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]
    return path


def opened(image, labels, reading=PLAIN, **options):
    return open_scenes([Example(image=image, labels=labels)], reading=reading, **options)


def ids_of(scene):
    """`(h, w)` ids of the label file."""
    crop = scene.crop(scene.frame.window)
    return np.concatenate([[0], scene.ids[crop.index]])[crop.labels]


@pytest.fixture
def stacked(tmp_path):
    return stack(tmp_path / "cells.tif", IMAGE)


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("axis", [None, "y", "x"])
def test_a_scene_is_a_slice_between_its_neighbours(tmp_path, stacked, reach, axis):
    scenes = opened(stacked, npy(tmp_path / "t.npy", LABELS), replace(PLAIN, neighbours=reach, axis=axis))
    turned, labels = (np.moveaxis(a, {None: 0, "y": 1, "x": 2}[axis], 0) for a in (IMAGE, LABELS))
    steps = range(-reach, reach + 1) if reach else (0, 0, 0)

    assert [s.z for s in scenes if len(s.objects)] == np.flatnonzero(labels.any(axis=(1, 2))).tolist()
    for scene in scenes:
        around = [turned[min(max(scene.z + step, 0), len(turned) - 1)] for step in steps]
        np.testing.assert_array_equal(scene.crop(scene.frame.window).image, np.stack(around, axis=2))
        part = Window(row=2, col=3, height=6, width=4)
        np.testing.assert_array_equal(scene.crop(part).image, np.stack(around, axis=2)[part.slices()])
        np.testing.assert_array_equal(ids_of(scene), labels[scene.z])
    assert {s.group for s in scenes} == {"cells.tif"}
    assert {s.reach for s in scenes} == {reach}
    assert len({s.name for s in scenes}) == len(scenes)


@pytest.mark.parametrize("image", ["stack", "nifti", "zarr"])
@pytest.mark.parametrize("truth", ["stack", "nifti", "mha", "npy", "masks", "zarr"])
def test_any_two_formats_of_one_shape_are_one_volume(tmp_path, image, truth):
    makers = {
        "stack": (stack, "tif"), "nifti": (nifti, "nii.gz"), "mha": (mha, "mha"), "npy": (npy, "npy"), "masks": (masks, "d"),
        "zarr": (ome_zarr, "zarr"),
    }  # fmt: skip
    (make, end), (draw, label_end) = makers[image], makers[truth]
    labels = LABELS.astype(np.uint16)

    scenes = opened(make(tmp_path / f"im.{end}", IMAGE), draw(tmp_path / f"labels.{label_end}", labels))

    for scene in scenes:
        np.testing.assert_array_equal(ids_of(scene), LABELS[scene.z])
        np.testing.assert_array_equal(scene.crop(scene.frame.window).image[..., 1], IMAGE[scene.z])


def test_what_is_not_one_volume_is_refused(tmp_path, stacked):
    truth = npy(tmp_path / "t.npy", LABELS)
    plane = Path(write(tmp_path / "plane.tif", IMAGE[:1]))
    ct = nifti(tmp_path / "ct.nii.gz", IMAGE)
    for image, labels, says in (
        (stacked, npy(tmp_path / "less.npy", LABELS[:-1]), "8 x 40 x 50 voxels .* and the volume 9 x 40 x 50"),
        (stacked, npy(tmp_path / "turned.npy", LABELS.transpose(0, 2, 1)), "another order"),
        (ct, nifti(tmp_path / "l.nii.gz", LABELS.astype(np.int16), AFFINE * [[-1], [1], [1], [1]]), "label volume is mirrored"),
        (stacked, nifti(tmp_path / "f.nii.gz", (LABELS + 0.5).astype(np.float32)), "not whole numbers"),
        (plane, truth.with_name("l.nii.gz"), "is a volume and .* an image of one plane"),
        (stacked, plane, "is no volume"),
    ):
        with pytest.raises(SourceError, match=says):
            opened(image, labels, Reading())
    for settings, says in (
        ({"reading": Reading(neighbours=2, smooth=1.0)}, "--smooth 1 for 5 bands"),
        ({"reading": Reading(gsd=1.0)}, "--gsd"),
        ({"reading": Reading(axis="coronal")}, "does not say how a patient lies"),
    ):
        with pytest.raises(ConfigError, match=says):
            opened(stacked, truth, **settings)
    with pytest.raises(ConfigError, match="--neighbours for .*plane.tif"):
        opened(plane, plane, Reading(neighbours=1))
    with pytest.raises(ConfigError, match="--aoi"):
        open_scenes([Example(image=stacked, labels=truth, aoi=plane)])


def test_slices_without_objects_are_a_share_evenly_spread(tmp_path):
    image, labels = np.zeros((50, 16, 16), np.uint8), np.zeros((50, 16, 16), np.int32)
    labels[20:28, 3:9, 3:9] = 7
    kept = [s.z for s in opened(stack(tmp_path / "a.tif", image), npy(tmp_path / "a.npy", labels))]
    empty = [z for z in kept if not 20 <= z < 28]

    assert set(range(20, 28)) <= set(kept)
    assert len(empty) == EMPTY_SHARE * 8
    assert empty[0] < 20 < 28 <= empty[-1]


def test_volumes_are_found_as_images_are(tmp_path):
    labels = LABELS.astype(np.uint16)
    for name in ("images", "labels", "flat"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        nifti(tmp_path / "images" / f"{name}.nii.gz", IMAGE)
        npy(tmp_path / "labels" / f"{name}_label.npy", labels)
    ct = nifti(tmp_path / "flat" / "ct.nii.gz", IMAGE)
    beside = mha(tmp_path / "flat" / "ct_labels.mha", labels)
    whole = ome_zarr(tmp_path / "cells.zarr", IMAGE)
    ome_zarr(whole / "labels", labels, inside="cells")

    paired = find_examples([tmp_path / "images"], labels=tmp_path / "labels")
    assert [(e.image.name, e.labels.name) for e in paired] == [(f"{n}.nii.gz", f"{n}_label.npy") for n in ("one", "two")]
    assert find_examples([tmp_path]) == find_examples([tmp_path / "images"], labels=tmp_path / "labels")
    for data in (ct, ct.parent):
        assert find_examples([data]) == [Example(image=ct, labels=beside)]
    assert find_examples([ct], labels=tmp_path / "labels") == [Example(image=ct, labels=tmp_path / "labels")]
    (own,) = find_examples([whole])
    for scene in open_scenes([own], reading=PLAIN):
        np.testing.assert_array_equal(ids_of(scene), LABELS[scene.z])
    said = folder.digests([own])
    (whole / "0" / "0.0.0").write_bytes((whole / "0" / "0.1.0").read_bytes())
    assert said != folder.digests([own]), "a changed chunk is other data"


@pytest.mark.parametrize("reading", [Reading(), Reading(neighbours=1), Reading(window="40,400"), Reading(axis="y", smooth=0.7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_pixels_are_those_that_segment_shows_a_model(tmp_path, reading, dtype):
    """A noisy volume is stretched and smoothed in training as `seggeo segment` would."""
    rng = np.random.default_rng(0)
    clean = np.where(blobs(1, (12, 48, 48), 12) > 0, 140, 60)
    volume = (clean + rng.normal(0, 18, clean.shape)).clip(0, 255).astype(dtype)
    path = nifti(tmp_path / "ct.nii.gz", volume)

    plan = make_plan(str(path), Settings(model="threshold", reading=reading), Execution(device="cpu"))
    scenes = opened(path, npy(tmp_path / "t.npy", (clean > 100).astype(np.uint8)), reading)

    view = scenes[0].view
    assert view.stretch.to_json() == plan.job.stretch
    assert view.reading.smooth == plan.job.reading["smooth"]
    assert view.reading.smooth > 0.3


def test_several_volumes_are_never_torn(tmp_path):
    paths = [stack(tmp_path / f"{i}.tif", IMAGE) for i in range(3)]
    scenes = open_scenes([Example(image=p, labels=npy(p.with_suffix(".npy"), LABELS)) for p in paths], reading=PLAIN)

    split = split_scenes(scenes, seed=0)

    assert split.rule == "groups"
    assert not {s.volume for s in split.train} & {s.volume for s in split.val}
    assert len(split.train) + len(split.val) == len(scenes)


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_one_volume_is_divided_by_a_block_of_slices_that_shares_no_pixel_with_the_rest(tmp_path, neighbours):
    labels = blobs(5, (60, 24, 24), 400)
    image = stack(tmp_path / "a.tif", noise((60, 24, 24)).astype(np.uint8))
    scenes = opened(image, npy(tmp_path / "a.npy", labels), replace(PLAIN, neighbours=neighbours))

    split = split_scenes(scenes, seed=0)
    val, train = ([s.z for s in part] for part in (split.val, split.train))

    assert split.rule == "slices"
    assert val == list(range(val[0], val[0] + 9)), "neighbours of each other, 15 % of the slices"
    assert sum(len(s.objects) for s in split.val) == pytest.approx(0.15 * sum(len(s.objects) for s in scenes), rel=0.35)
    seen = [{at for z in part for at in range(z - neighbours, z + neighbours + 1)} for part in (train, val)]
    assert not seen[0] & seen[1]
    assert len(train) >= 30


def test_a_volume_of_few_slices_is_divided_at_one_place_in_all_of_them(tmp_path):
    labels = np.zeros((3, 40, 500), np.int32)
    for i in range(40):
        labels[:, 5:30, 12 * i : 12 * i + 8] = i + 1
    image = stack(tmp_path / "a.tif", np.zeros(labels.shape, np.uint8))
    scenes = opened(image, npy(tmp_path / "a.npy", labels), Reading(stretch="none", neighbours=1))

    split = split_scenes(scenes, seed=0)

    assert split.rule == "areas"
    assert len(split.train) == len(split.val) == 3
    for part in (split.train, split.val):
        assert len({s.areas for s in part}) == 1
    assert not any(a.intersect(b) for a in split.train[0].areas for b in split.val[0].areas)


def weights(path, **facts):
    save_file({"stem.0.weight": np.zeros(2, np.float32)}, path, metadata={"seggeo": json.dumps({"model": "unet", **facts})})
    return path


def test_weights_ask_for_what_they_have_learnt_from_unless_told_otherwise(tmp_path):
    placed = Placement(matrix=matrix_of(np.eye(4)[:3]), axes=(0, 1, 2))
    volume, plane = Frame(depth=9, height=40, width=50, placement=placed), Frame(height=40, width=50)
    path = weights(
        tmp_path / "w.safetensors", stretch="-160.0,240.0", neighbours=1, axis="y", smooth=0.0, window="40,400", channel=["b"]
    )
    learnt = Reading(neighbours=1, axis="y", smooth=0.0, window="40,400", channel=("b",))
    own = Reading(neighbours=2, axis="z", smooth=1.0, window="bone", channel=("a",))

    assert preferred(Reading(), path, volume) == learnt
    assert preferred(own, path, volume) == own
    assert preferred(Reading(stretch="minmax"), path, volume).window is None
    with pytest.raises(ConfigError, match="with 1 before and after, and the image has one plane"):
        preferred(Reading(), path, plane)
    of_planes = weights(tmp_path / "p.safetensors", stretch="percent:1,99", window="40,400")
    assert preferred(Reading(), of_planes, plane) == Reading(stretch="percent:1,99")


def test_what_was_asked_for_is_recorded_and_what_was_chosen_beside_it(tmp_path, stacked):
    truth = npy(tmp_path / "t.npy", LABELS)
    asked = Reading(neighbours=1, window="lung", axis="y", smooth=0.8, channel=("1",))
    scenes, plain = opened(stacked, truth, asked), opened(stacked, truth, Reading())
    card = UNetTask(UNetShape(bands=3, classes=1)).card()

    assert slices_of(asked, scenes) == {"neighbours": 1, "window": "lung", "axis": "y", "smooth": 0.8, "channel": ["1"]}
    assert (stretch_of(asked, scenes), smoothing_of(scenes)) == ("-1350.0,150.0", {"smooth_px": [0.8]})
    assert slices_of(Reading(), plain) == {}
    assert stretch_of(Reading(), plain) == "percent:0.5,99.9"
    assert smoothing_of(plain)["smooth_px"][0] > 0, "the image is nothing but noise"
    assert not {"neighbours", "axis", "window", "smooth", "channel"} & card.keys(), "or the card would hide them"


def test_the_size_of_objects_is_that_of_the_whole_volume(tmp_path):
    """A slice that cuts an object near its end is not an image of small objects."""
    labels = np.zeros((5, 64, 64), np.int32)
    for z, radius in enumerate((3, 9, 12, 9, 3)):
        labels[z, 32 - radius : 32 + radius, 32 - radius : 32 + radius] = 1
    scenes = opened(stack(tmp_path / "a.tif", labels.astype(np.uint8)), npy(tmp_path / "a.npy", labels))

    assert diameters_of(scenes) == pytest.approx([2 * 18 / np.sqrt(np.pi)] * len(scenes))
