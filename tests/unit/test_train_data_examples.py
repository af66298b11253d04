"""Examples are found where they lie, and what cannot be learnt from is refused with its reason."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from support_annotations import at_pixels, blobs, coco_file, polygon_file, utm_frame
from support_io import noise, write

from seggeo.errors import ConfigError, SeggeoWarning, SourceError
from seggeo.train.examples import Example, find_examples
from seggeo.train.scene_opening import open_scenes

H, W = 60, 80
FRAME = utm_frame(H, W)
CELL = {"segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]}


def pairs(folder, *names, images="images", labels="labels", ending=""):
    for sub in (images, labels):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        write(folder / images / f"{name}.tif", noise((3, H, W), seed=i))
        write(folder / labels / f"{name}{ending}.tif", blobs(H, W, seed=i)[None])
    return folder


def boxes(path, *corners, **columns):
    return polygon_file(path, [at_pixels(shapely.box(*c), FRAME) for c in corners], **columns)


def scene(tmp_path, labels, **options):
    write(tmp_path / "a.tif", noise((3, H, W)))
    return open_scenes(find_examples([tmp_path / "a.tif"], labels=labels), **options)


@pytest.mark.parametrize(("labels", "ending"), [("labels", ""), ("masks", "_mask"), ("labels", "_label")])
def test_a_folder_of_images_beside_a_folder_of_labels(tmp_path, labels, ending):
    found = find_examples([pairs(tmp_path / "d", "b", "a", labels=labels, ending=ending)])

    assert [e.image.name for e in found] == ["a.tif", "b.tif"]
    assert [e.labels.name for e in found] == [f"a{ending}.tif", f"b{ending}.tif"]


@pytest.mark.parametrize("ending", ["_label", "_labels", "_mask"])
def test_labels_beside_their_images(tmp_path, ending):
    pairs(tmp_path, "a", "b", images=".", labels=".", ending=ending)

    assert [e.labels.name for e in find_examples([tmp_path])] == [f"a{ending}.tif", f"b{ending}.tif"]
    assert [e.labels.name for e in find_examples([tmp_path / "a.tif"])] == [f"a{ending}.tif"]


def test_an_index_says_split_group_kind_and_weight(tmp_path):
    pairs(tmp_path, "a", "b")
    (tmp_path / "index.csv").write_text("name,other,split,group,kind,weight\na,1,val,g1,blue,\nb,2,train,g2,,2.5\n")

    first, second = find_examples([tmp_path])

    assert (first.split, first.group, first.kind, first.weight) == ("val", "g1", "blue", 1.0)
    assert (second.split, second.group, second.kind, second.weight) == ("train", "g2", "", 2.5)
    (tmp_path / "index.csv").write_text("name,split\nc,val\n")
    with pytest.raises(SourceError, match="names 1 images that are not there, for example 'c'"):
        find_examples([tmp_path])


@pytest.mark.parametrize("folder", [".", "images", "elsewhere"])
def test_a_coco_json_names_its_images(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in "ab":
        write(tmp_path / folder / f"{name}.tif", noise((3, H, W)))
    images = [{"id": i, "file_name": f"{n}.tif", "height": H, "width": W} for i, n in enumerate("ab", 1)]
    path = coco_file(tmp_path / "c.json", [CELL], images=images)

    found = find_examples([path], images=tmp_path / folder if folder == "elsewhere" else None)

    assert [(e.image.name, e.coco_image) for e in found] == [("a.tif", "1"), ("b.tif", "2")]
    assert [len(s.objects) for s in open_scenes(found)] == [1, 0]
    assert [e.coco_image for e in find_examples([tmp_path / folder / "b.tif"], labels=path)] == ["b.tif"]
    if folder == "elsewhere":
        with pytest.raises(SourceError, match=r"2 of 2 images .* missing, for example a\.tif"):
            find_examples([path])


def test_a_manifest_mixes_all_kinds(tmp_path):
    pairs(tmp_path / "d", "a", "b")
    write(tmp_path / "s.tif", noise((3, H, W), seed=9))
    boxes(tmp_path / "s.gpkg", (10, 10, 30, 30), kind=["roof"])
    boxes(tmp_path / "aoi.gpkg", (0, 0, 40, 40))
    write(tmp_path / "a.png", noise((3, H, W)), geo=False, driver="PNG")
    coco_file(tmp_path / "c.json", [CELL], size=(H, W))
    (tmp_path / "m.csv").write_text(
        "image,labels,split,group,weight,aoi,attribute,kind\n"
        "s.tif,s.gpkg,val,,2,aoi.gpkg,kind,sky\nd,,train,g,,,,\nc.json,,,,,,,\na.png,c.json,,,,,,\n"
    )

    found = find_examples([tmp_path / "m.csv"])

    assert [e.image.name for e in found] == ["s.tif", "a.tif", "b.tif", "a.png", "a.png"]
    assert [e.split for e in found] == ["val", "train", "train", "", ""]
    assert [e.group for e in found] == ["", "g", "g", "", ""]
    assert (found[0].weight, found[0].attribute, found[0].kind) == (2, "kind", "sky")
    scenes = open_scenes(found[:4])
    assert scenes[0].classes == ("roof", "object", "other", "cell")
    assert scenes[0].known is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\na,b\n", "unknown columns: label"),
        ("labels\nb\n", "no column image"),
        ("image,labels\n", "no line"),
        ("image,labels,split\na.tif,a_label.tif,test\n", "split 'test'"),
        ("image,labels,weight\na.tif,a_label.tif,much\n", "bad line for a"),
        ("image,labels,weight\na.tif,a_label.tif,-1\n", "weight -1"),
    ],
)
def test_a_manifest_that_means_nothing_is_refused(tmp_path, text, said):
    pairs(tmp_path, "a", images=".", labels=".", ending="_label")
    (tmp_path / "m.csv").write_text(text)

    with pytest.raises(ConfigError, match=said):
        find_examples([tmp_path / "m.csv"])


def test_images_without_labels_are_named(tmp_path):
    pairs(tmp_path, "a", "b", "c")
    for name in "bc":
        (tmp_path / "labels" / f"{name}.tif").unlink()
    with pytest.raises(SourceError, match=r"2 images have no labels: b\.tif, c\.tif"):
        find_examples([tmp_path])
    with pytest.raises(SourceError, match=r"1 images have no labels: b\.tif"):
        find_examples([tmp_path / "images" / "b.tif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no images"):
        find_examples([tmp_path / "empty"])
    (tmp_path / "half" / "images").mkdir(parents=True)
    with pytest.raises(SourceError, match="images without labels"):
        find_examples([tmp_path / "half"])
    with pytest.raises(SourceError, match="nothing to learn from"):
        find_examples([])


def test_labels_without_an_image_are_told(tmp_path):
    pairs(tmp_path, "a", "b")
    (tmp_path / "images" / "b.tif").unlink()

    with pytest.warns(SeggeoWarning, match=r"1 label files of .* for example b\.tif"):
        assert len(find_examples([tmp_path])) == 1


def test_polygons_alone_and_one_raster_for_two_images_are_refused(tmp_path):
    pairs(tmp_path, "a", "b")
    with pytest.raises(ConfigError, match="alone cannot be learnt from"):
        find_examples([boxes(tmp_path / "p.gpkg", (1, 1, 9, 9))])
    with pytest.raises(ConfigError, match="one label raster for 2 images"):
        find_examples([tmp_path / "images"], labels=tmp_path / "labels" / "a.tif")
    assert len(find_examples([tmp_path / "images"], labels=tmp_path / "labels")) == 2


def test_labels_without_objects_are_refused(tmp_path):
    write(tmp_path / "l.tif", np.zeros((1, H, W), np.uint8))

    with pytest.raises(SourceError, match="no objects at all"):
        scene(tmp_path, tmp_path / "l.tif")


def test_labels_that_lie_elsewhere_are_refused(tmp_path):
    write(tmp_path / "l.tif", blobs(H + 1, W, seed=1)[None])

    with pytest.raises(SourceError, match="all 2 are outside it"):
        scene(tmp_path, boxes(tmp_path / "p.gpkg", (-20, 0, -10, 9), (100, 0, 110, 9)))
    with pytest.raises(SourceError, match="does not fit its image"):
        scene(tmp_path, tmp_path / "l.tif")


def test_some_objects_outside_tiny_or_in_another_crs_are_told(tmp_path):
    some = boxes(tmp_path / "p.gpkg", (5, 5, 20, 20), (100, 0, 110, 9), (40, 40, 41, 42), (50.6, 50.6, 50.9, 50.9))
    with pytest.warns(SeggeoWarning) as told:
        assert len(scene(tmp_path, some)[0].objects) == 2
    assert [str(w.message).split(":")[0] for w in told] == [
        "1 objects lie outside their image and are left out",
        "2 objects have fewer than 4 px, and teach little",
    ]

    from geopandas import GeoSeries

    degrees = GeoSeries([at_pixels(shapely.box(5, 5, 20, 20), FRAME)], crs=32633).to_crs(4326)
    with pytest.warns(SeggeoWarning, match=r"reprojected from WGS 84: a\.tif"):
        scene(tmp_path, polygon_file(tmp_path / "d.gpkg", list(degrees), crs="EPSG:4326"))


def test_objects_that_lie_on_each_other_are_refused_unless_allowed(tmp_path):
    path = boxes(tmp_path / "p.gpkg", (5, 5, 25, 25), (6, 6, 24, 24), (40, 5, 60, 25), (41, 30, 60, 50), id=[11, 12, 13, 14])

    with pytest.raises(SourceError, match=r"2 of 4 objects [^$]* ids 11, 12\n"):
        scene(tmp_path, path)
    assert len(scene(tmp_path, path, allow_overlap=True)[0].objects) == 4


def test_neighbours_that_overlap_a_little_are_taken(tmp_path):
    path = boxes(tmp_path / "p.gpkg", (5, 5, 25, 25), (20, 5, 40, 25), (36, 5, 56, 25))

    assert len(scene(tmp_path, path)[0].objects) == 3


def test_one_image_in_train_and_in_val_is_refused(tmp_path):
    pairs(tmp_path, "a", "b", "c")
    (tmp_path / "images" / "c.tif").write_bytes((tmp_path / "images" / "a.tif").read_bytes())
    index = tmp_path / "index.csv"
    index.write_text("name,split,group\na,train,\nb,train,\nc,val,\n")
    with pytest.raises(SourceError, match=r"a\.tif and .*c\.tif are the same image"):
        open_scenes(find_examples([tmp_path]))
    areas = {s: boxes(tmp_path / f"{s}.gpkg", (30 * i, 0, 30 * i + 20, 60)) for i, s in enumerate(("train", "val"))}
    one = Example(image=tmp_path / "images" / "a.tif", labels=tmp_path / "labels" / "a.tif", split="train", aoi=areas["train"])
    assert len(open_scenes([one, replace(one, split="val", aoi=areas["val"])])) == 2
    index.write_text("name,split,group\na,train,g\nb,val,g\nc,train,\n")
    with pytest.raises(SourceError, match="group 'g' lies in train and in val"):
        open_scenes(find_examples([tmp_path]))
    index.write_text("name,split,group\na,train,g\nb,val,h\nc,train,\n")
    assert len(open_scenes(find_examples([tmp_path]))) == 3


def test_a_missing_or_damaged_image_is_named(tmp_path):
    pairs(tmp_path, "a")
    image = tmp_path / "images" / "a.tif"
    image.write_bytes(image.read_bytes()[:300])

    with pytest.raises(SourceError, match=r"a\.tif"):
        open_scenes(find_examples([tmp_path]))
    with pytest.raises(SourceError, match="does not exist"):
        open_scenes([Example(image=tmp_path / "none.tif", labels=tmp_path / "labels" / "a.tif")])


def test_a_class_that_the_index_does_not_give_is_refused(tmp_path):
    example = find_examples([pairs(tmp_path, "a")])[0]
    ids = np.unique(blobs(H, W, seed=0))[1:]

    with pytest.raises(SourceError, match=f"{len(ids) - 1} objects .* have no class, for example id {ids[1]}"):
        open_scenes([Example(image=example.image, labels=example.labels, class_of_id={int(ids[0]): "x"})])


def test_masks_that_show_all_objects_as_one_are_refused(tmp_path):
    pairs(tmp_path, "a", "b", "c")
    for name in "ab":
        write(tmp_path / "labels" / f"{name}.tif", (blobs(H, W, seed=1)[None] > 0).astype(np.uint8) * 255)

    with pytest.raises(SourceError, match=r"2 label rasters hold one id on many separate pieces: a\.tif, b\.tif"):
        open_scenes(find_examples([tmp_path]))
    write(tmp_path / "labels" / "b.tif", blobs(H, W, seed=1)[None])
    with pytest.warns(SeggeoWarning, match=r"pieces are one object each in their label raster: a\.tif"):
        open_scenes(find_examples([tmp_path]))
