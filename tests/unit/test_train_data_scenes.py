"""Scenes and crops: what a model learns from is what lies in the files, and nothing where nothing is known."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely
from support_annotations import at_pixels, blobs, coco_file, polygon_file, utm_frame
from support_io import noise, write
from support_scenes import paint

from seggeo.config import Reading
from seggeo.errors import ConfigError
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.io import apply_stretch, fit_stretch, open_raster
from seggeo.train import crops, pixels
from seggeo.train.examples import Example, find_examples
from seggeo.train.scene_opening import open_scenes

H, W = 90, 120
WINDOWS = [(0, 0, H, W), (10, 20, 40, 50), (60, 90, 64, 64), (0, 115, 5, 5), (88, 0, 40, 130)]


def window(bounds):
    return Window(**dict(zip(("row", "col", "height", "width"), bounds, strict=True)))


@pytest.fixture
def scene(tmp_path):
    write(tmp_path / "a.tif", noise((3, H, W)), tiled=True, blockxsize=32, blockysize=32)
    write(tmp_path / "a_label.tif", blobs(H, W, seed=1)[None])
    return open_scenes(find_examples([tmp_path / "a.tif"]))[0]


@pytest.mark.parametrize("bounds", WINDOWS)
@pytest.mark.parametrize("small", [True, False])
def test_a_crop_is_the_part_of_image_and_labels(scene, monkeypatch, bounds, small):
    monkeypatch.setattr(pixels, "SMALL_PX", 10**6 if small else 0)
    place = window(bounds)
    whole = np.zeros((H + 200, W + 200, 3), np.uint8)
    with open_raster(scene.view.path, Reading(), native=False) as source:
        whole[:H, :W] = source.read(source.frame.window).data
    labels = np.zeros(whole.shape[:2], int)
    labels[:H, :W] = blobs(H, W, seed=1)

    crop = scene.crop(place)

    np.testing.assert_array_equal(crop.image, whole[place.slices()])
    ids = scene.ids[crop.index]
    np.testing.assert_array_equal(np.concatenate([[0], ids])[crop.labels], labels[place.slices()])
    np.testing.assert_array_equal(np.unique(crop.labels[crop.labels > 0]), np.arange(1, len(crop) + 1))
    share = [(labels[place.slices()] == i).sum() / (labels == i).sum() for i in ids]
    np.testing.assert_allclose(crop.visible, share, rtol=1e-6)
    np.testing.assert_array_equal(crop.whole, np.array(share) == 1)
    inside = np.zeros(whole.shape[:2], bool)
    inside[:H, :W] = True
    np.testing.assert_array_equal(crop.valid, inside[place.slices()])


def test_sixteen_bits_are_shown_as_segment_shows_them_and_raw_when_asked(tmp_path):
    write(tmp_path / "a.tif", noise((3, H, W), "uint16"), nodata=0)
    write(tmp_path / "a_label.tif", blobs(H, W, seed=1)[None])
    scene = open_scenes(find_examples([tmp_path / "a.tif"]))[0]
    with open_raster(str(tmp_path / "a.tif"), Reading(), native=False) as source:
        shown = source.read(scene.frame.window)
        stretched = apply_stretch(fit_stretch(source.overview(2048), "auto"), shown)

    crop, raw = scene.crop(scene.frame.window), scene.crop(scene.frame.window, raw=True)

    np.testing.assert_array_equal(crop.image, stretched)
    np.testing.assert_array_equal(crop.valid, shown.valid)
    assert raw.image.dtype == np.uint16
    np.testing.assert_array_equal(raw.image[raw.valid], shown.data[shown.valid])


def test_all_bands_are_given_to_models_that_take_any(tmp_path):
    write(tmp_path / "a.tif", noise((5, H, W)))
    write(tmp_path / "a_label.tif", blobs(H, W, seed=1)[None])

    scene = open_scenes(find_examples([tmp_path / "a.tif"]), all_bands=True)[0]

    assert scene.bands == 5
    assert scene.crop(window(WINDOWS[1])).image.shape == (40, 50, 5)


@pytest.mark.parametrize("seed", range(8))
def test_of_objects_on_each_other_the_smaller_lies_on_top(seed):
    rng = np.random.default_rng(seed)
    boxes = [(r, c, r + h, c + w) for r, c, h, w in rng.integers([0, 0, 1, 1], [80, 110, 40, 60], (40, 4))]
    masks = [np.ones((b[2] - b[0], b[3] - b[1]), bool) for b in boxes]
    instances = Instances.from_masks(masks, origin=[b[:2] for b in boxes])
    place = (15, 20, 70, 100)
    wanted = np.zeros((130, 180), int)
    for i in np.argsort(-instances.area, kind="stable"):
        row, col, row_stop, col_stop = instances.box[i]
        wanted[row:row_stop, col:col_stop] = i + 1

    painted = crops.paint(instances, place)

    np.testing.assert_array_equal(np.concatenate([[0], painted.index + 1])[painted.labels], wanted[15:70, 20:100])
    assert (np.diff(painted.index) > 0).all()
    assert set(np.unique(painted.labels)) - {0} == set(range(1, len(painted.index) + 1))


def test_nothing_is_learnt_outside_the_area_of_interest_nor_in_crowds(tmp_path):
    frame = utm_frame(H, W)
    write(tmp_path / "a.tif", noise((3, H, W)))
    area = [at_pixels(shapely.box(10, 5, 70, 60), frame), at_pixels(shapely.box(60, 50, 90, 80), frame)]
    polygon_file(tmp_path / "aoi.gpkg", area)
    crowd = {"segmentation": [[20, 20, 30, 20, 30, 30, 20, 30]], "iscrowd": 1}
    cell = {"segmentation": [[40, 40, 50, 40, 50, 50, 40, 50]]}
    labels = coco_file(tmp_path / "c.json", [crowd, cell], size=(H, W))
    scene = open_scenes([Example(image=tmp_path / "a.tif", labels=labels, coco_image="a.png", aoi=tmp_path / "aoi.gpkg")])
    known = np.zeros((H, W), bool)
    known[5:60, 10:70] = known[50:80, 60:90] = True
    known[20:30, 20:30] = False

    crop = scene[0].crop(Window(row=2, col=3, height=80, width=100))

    np.testing.assert_array_equal(crop.valid, known[2:82, 3:103])
    assert crop.image[~crop.valid].any()
    assert len(crop) == 1
    assert scene[0].classes[crop.classes[0]] == "cell"


def test_a_part_of_a_scene_sees_nothing_of_the_rest(scene):
    areas = [Window(row=0, col=0, height=40, width=W), Window(row=60, col=30, height=30, width=50)]
    inside = np.zeros((H, W), bool)
    for area in areas:
        inside[area.slices()] = True

    part = scene.within(areas, split="val")
    crop, full = part.crop(part.frame.window), scene.crop(scene.frame.window)

    np.testing.assert_array_equal(crop.valid, inside)
    np.testing.assert_array_equal(crop.image, full.image * inside[..., None])
    np.testing.assert_array_equal(np.concatenate([[0], part.ids[crop.index]])[crop.labels], blobs(H, W, seed=1) * inside)
    cut = [(blobs(H, W, seed=1)[~inside] == i).any() for i in part.ids]
    np.testing.assert_array_equal(part.cut, cut)
    np.testing.assert_array_equal(crop.whole, ~part.cut[crop.index])
    assert part.split == "val"
    assert part.area == inside.sum()


def test_classes_of_all_scenes_are_one_list(tmp_path):
    frame = utm_frame(H, W)
    boxes = [at_pixels(shapely.box(10, 10, 20, 20), frame), at_pixels(shapely.box(40, 40, 60, 60), frame)]
    for name, kinds in (("a", ["tree", "roof"]), ("b", ["roof", "car"])):
        write(tmp_path / f"{name}.tif", noise((3, H, W)))
        polygon_file(tmp_path / f"{name}_label.gpkg", boxes, kind=kinds)

    first, second = open_scenes(find_examples([tmp_path], attribute="kind"))

    assert first.classes == second.classes == ("roof", "tree", "car")
    assert first.objects.label.tolist() == [1, 0]
    assert second.objects.label.tolist() == [0, 2]
    assert first.gsd_m == pytest.approx(0.5)


def test_a_class_by_id_is_taken_from_the_index(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    labels = np.zeros((1, H, W), np.uint8)
    labels[0, 5:15, 5:15], labels[0, 30:40, 30:40] = 4, 9
    write(tmp_path / "images" / "x.png", noise((3, H, W)), geo=False, driver="PNG")
    write(tmp_path / "labels" / "x.png", labels, geo=False, driver="PNG")
    (tmp_path / "index.csv").write_text('name,kind,classes\nx,stain,"{""4"": ""tumour"", ""9"": ""other""}"\n')

    scene = open_scenes(find_examples([tmp_path]))[0]

    assert [scene.classes[i] for i in scene.objects.label] == ["tumour", "other"]
    assert (scene.kind, scene.name, scene.gsd_m) == ("stain", "x.png", None)


def test_images_of_different_bands_are_refused(tmp_path):
    for name, bands in (("a", 3), ("b", 5)):
        write(tmp_path / f"{name}.tif", noise((bands, H, W)))
        write(tmp_path / f"{name}_label.tif", blobs(H, W, seed=1)[None])

    with pytest.raises(ConfigError, match=r"a\.tif 3, b\.tif 5"):
        open_scenes(find_examples([tmp_path]), all_bands=True)


def test_scenes_are_pickled_small_and_read_by_threads(scene, monkeypatch):
    monkeypatch.setattr(pixels, "SMALL_PX", 0)
    monkeypatch.setattr(pixels, "OPEN_FILES", 1)
    copy = pickle.loads(pickle.dumps(scene))
    places = [window(WINDOWS[i % len(WINDOWS)]) for i in range(40)]
    wanted = [scene.crop(p).image for p in places]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda p: copy.crop(p).image, places))

    assert len(pickle.dumps(scene)) < 20_000
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_few_files_stay_open_and_few_images_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "KEPT_BYTES", 3 * 4 * H * W)
    monkeypatch.setattr(pixels, "_KEPT", pixels._Kept())
    monkeypatch.setattr(pixels, "_POOL", pixels._Pool())
    for i in range(9):
        write(tmp_path / f"{i}.tif", noise((3, H, W), seed=i))
        write(tmp_path / f"{i}_label.tif", blobs(H, W, seed=1)[None])
    scenes = open_scenes(find_examples([tmp_path]))

    for scene in scenes * 2:
        expected = noise((3, H, W), seed=int(scene.name[0])).transpose(1, 2, 0)
        np.testing.assert_array_equal(scene.crop(scene.frame.window).image, expected)

    assert len(pixels._POOL._files) <= pixels.OPEN_FILES
    assert pixels._KEPT._held_bytes <= pixels.KEPT_BYTES
    assert len(pixels._KEPT._images) == 3


def test_objects_of_a_scene_are_those_of_its_labels(scene):
    np.testing.assert_array_equal(paint(scene.objects, (H, W)), blobs(H, W, seed=1))
    assert isinstance(scene.weight, float)
    assert Example(image=scene.view.path, labels=scene.view.path).weight == 1
