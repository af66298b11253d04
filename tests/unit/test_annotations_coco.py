"""COCO json: run lengths equal to pycocotools' to the last pixel, polygons within a pixel of its outlines."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest
import shapely
from pycocotools import mask as rival
from support_annotations import coco_file, whole_masks

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.io.annotations import open_coco, read_annotations

H, W = 60, 80


def masks(count, seed):
    """Noise of every density, single pixels, a full and a striped image."""
    rng = np.random.default_rng(seed)
    some = [rng.random((H, W)) < rng.choice([0.02, 0.5, 0.98]) for _ in range(count)]
    one = np.zeros((H, W), bool)
    one[rng.integers(H), rng.integers(W)] = True
    stripes = np.zeros((H, W), bool)
    stripes[:, ::2] = True
    return [*some, one, np.ones((H, W), bool), stripes, stripes.T.repeat(2, axis=0)[:H, :1].repeat(W, axis=1)]


def packed(mask, form):
    if form == "text":
        code = rival.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": [H, W], "counts": code["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [H, W], "counts": [0, *counts] if flat[0] else counts}


def test_run_lengths_are_the_masks_packed_or_not(tmp_path):
    wanted = masks(60, seed=1)
    entries = [{"segmentation": packed(m, "text" if i % 3 else "list")} for i, m in enumerate(wanted)]

    found = read_annotations(coco_file(tmp_path / "c.json", entries))

    np.testing.assert_array_equal(whole_masks(found.instances, H, W), wanted)
    np.testing.assert_array_equal(found.ids, np.arange(len(wanted)) + 5)
    assert found.classes == ("other", "cell")
    assert (found.instances.label == 1).all()
    assert (found.frame.height, found.frame.width) == (H, W)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_differ_from_pycocotools_on_their_outline_only(tmp_path):
    rng = np.random.default_rng(2)
    rings = []
    for _ in range(80):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        xy = rng.uniform([20, 20], [60, 40], 2) + rng.uniform(5, 18, 9)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        rings.append(np.clip(xy, 0, [W, H]).ravel().tolist())
    entries = [{"segmentation": [rings[i], rings[i + 1]] if i % 2 else [rings[i]]} for i in range(79)]

    found = whole_masks(read_annotations(coco_file(tmp_path / "c.json", entries)).instances, H, W)

    sizes = np.zeros(2)
    for ours, entry in zip(found, entries, strict=True):
        theirs = rival.decode(rival.merge(rival.frPyObjects(entry["segmentation"], H, W))).astype(bool)
        outline = shapely.MultiLineString([np.reshape(ring + ring[:2], (-1, 2)) for ring in entry["segmentation"]])
        row, col = np.nonzero(ours != theirs)
        assert (shapely.distance(shapely.points(col + 0.5, row + 0.5), outline) <= 1).all()
        sizes += ours.sum(), theirs.sum()
    assert abs(sizes[0] / sizes[1] - 1) < 0.02


def test_several_polygons_of_one_object_are_united_where_they_overlap(tmp_path):
    boxes = [[10, 10, 30, 10, 30, 30, 10, 30], [20, 20, 40, 20, 40, 40, 20, 40]]

    found = read_annotations(coco_file(tmp_path / "c.json", [{"segmentation": boxes}]))

    assert found.instances.area.tolist() == [400 + 400 - 100]


def test_crowds_scores_and_empty_segmentations(tmp_path):
    one, other = (packed(m, "list") for m in masks(2, seed=3)[:2])
    nothing = packed(np.zeros((H, W), bool), "text")
    entries = [
        {"segmentation": one, "iscrowd": 1, "score": 0.25},
        {"segmentation": nothing, "score": 0.5},
        {"segmentation": other, "score": 0.75, "category_id": 1},
    ]

    found = read_annotations(coco_file(tmp_path / "c.json", entries))

    assert found.crowd.tolist() == [True, False]
    assert found.scored
    np.testing.assert_allclose(found.instances.score, [0.25, 0.75])
    assert found.instances.label.tolist() == [1, 0]
    assert found.ids.tolist() == [5, 7]
    assert found.tiny == 1


def test_an_image_is_named_by_file_or_id(tmp_path):
    images = [{"id": i, "file_name": f"deep/{n}.png", "height": H, "width": W} for i, n in ((1, "a"), (22, "b"))]
    square = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}
    entries = [square, {**square, "image_id": 22}, {**square, "image_id": 22}]
    path = coco_file(tmp_path / "c.json", entries, images=images)
    (tmp_path / "z.json").write_bytes(gzip.compress(path.read_bytes()))

    assert [len(read_annotations(path, image=name)) for name in ("a.png", "deep/b.png", "22", "b.png")] == [1, 2, 2, 2]
    assert len(read_annotations(tmp_path / "z.json", image="1")) == 1
    with pytest.raises(ConfigError, match=r"2 images are: deep/a\.png, deep/b\.png"):
        read_annotations(path)
    with pytest.raises(ConfigError, match=r"no single image 'c\.png'"):
        read_annotations(path, image="c.png")


def test_a_list_of_results_takes_names_from_its_data_set(tmp_path):
    entry = {"segmentation": packed(masks(1, seed=4)[0], "text")}
    data = coco_file(tmp_path / "c.json", [entry])
    results = tmp_path / "r.json"
    results.write_text(json.dumps([{"image_id": 1, "category_id": 3, "score": 0.5, **entry}]))

    named, plain = open_coco(results, data).annotations("a.png"), read_annotations(results)

    assert named.classes == ("other", "cell")
    assert plain.classes == ("3",)
    assert named.scored
    np.testing.assert_array_equal(named.instances.runs, plain.instances.runs)
    assert named.ids.tolist() == [1]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"bbox": [1, 1, 4, 4]}, "no segmentation"),
        ({"segmentation": {"size": [H, W], "counts": [5, 5]}}, "do not cover"),
        ({"segmentation": {"size": [W, H], "counts": [H * W]}}, "do not cover"),
        ({"segmentation": {"size": [H, W], "counts": "#!"}}, "do not cover|damaged"),
        ({"segmentation": [[1, 2, 3]]}, "damaged"),
        ({"segmentation": [], "category_id": 99}, "no category 99"),
        ({"segmentation": [], "image_id": 99}, "no image 99"),
    ],
)
def test_damaged_entries_are_refused(tmp_path, entry, said):
    with pytest.raises(SourceError, match=said):
        read_annotations(coco_file(tmp_path / "c.json", [entry]))


def test_what_is_no_coco_is_refused(tmp_path):
    path = coco_file(tmp_path / "c.json", [])
    with pytest.raises(SourceError, match="60 x 80 pixels .* 10 x 10"):
        read_annotations(path, Frame(height=10, width=10))
    path.write_text('{"images": []}')
    with pytest.raises(SourceError, match="no list 'annotations', 'categories'"):
        read_annotations(path)
    path.write_text('{"images": [')
    with pytest.raises(SourceError, match="is no COCO json"):
        read_annotations(path)


def many(count, form):
    """Entries as tools write them, with 24 points or 60 counts each."""
    rng = np.random.default_rng(6)
    points = np.round(rng.uniform(0, 60, (count, 48)), 2).tolist()
    counts = rng.integers(1, 100, (count, 60)).tolist()
    more = {"area": 300.5, "bbox": [1.0, 2.0, 3.0, 4.0], "attributes": {"occluded": False}, "iscrowd": 0}
    drawn = {"polygon": lambda i: [points[i]], "list": lambda i: {"size": [H, W], "counts": counts[i]}}[form]
    return [{"segmentation": drawn(i), **more} for i in range(count)]


@pytest.mark.parametrize(("form", "kept_bytes", "most_bytes"), [("polygon", 1000, 1600), ("list", 1200, 1800)])
def test_an_annotation_takes_little_memory(tmp_path, form, kept_bytes, most_bytes):
    """As parsed by Python alone they take 2700 to 3000 bytes each, and 3700 to 3900 while they are read."""
    count = 3000
    path = coco_file(tmp_path / "c.json", many(count, form))
    open_coco(path)  # what is imported and cached on the way is not the annotations'
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    coco = open_coco(path)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(coco.objects[1]) == count
    assert (now - before) / count < kept_bytes
    assert (peak - before) / count < most_bytes


@pytest.mark.parametrize("form", ["polygon", "list"])
def test_numbers_in_arrays_are_the_numbers_of_the_file(tmp_path, form):
    entries = many(50, form)
    found = open_coco(coco_file(tmp_path / "c.json", entries)).objects[1]

    for entry, read in zip(entries, found, strict=True):
        drawn, own = entry["segmentation"], read["segmentation"]
        if form == "polygon":
            assert [ring.tolist() for ring in own] == drawn
        else:
            assert (list(own["size"]), own["counts"].tolist()) == (drawn["size"], drawn["counts"])


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]], [["a", "b"]], [[1, 2, None, 4]], [[float("nan")] * 6], [7],
        {"size": [H, W], "counts": None}, {"size": [H, W]}, {"size": 5, "counts": [H * W]},
        {"size": [H, W], "counts": [10**30]}, {"size": [H, W], "counts": [float("nan")]},
    ],
)  # fmt: skip
def test_values_of_a_wrong_kind_are_refused(tmp_path, segmentation):
    path = coco_file(tmp_path / "c.json", [{"segmentation": segmentation}])

    with pytest.raises(SourceError, match="damaged"):
        read_annotations(path)
