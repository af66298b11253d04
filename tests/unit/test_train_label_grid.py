"""Labels at another GSD than their file's: they lie on the image as it is read there."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from support_annotations import SHARED, blobs, coco_file
from support_io import write
from support_scenes import paint
from support_train import discs

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.io.annotations import Annotations
from seggeo.train.examples import Example, find_examples
from seggeo.train.label_grid import at_grid
from seggeo.train.scene_opening import open_scenes
from seggeo.train.scenes import Scene

OWN = 0.5
"""GSD of the files that are written here, m."""


def annotations(labels: NDArray[np.integer]) -> Annotations:
    ids = np.unique(labels[labels > 0]).astype(np.int64)
    return Annotations(
        instances=Instances.from_labels(labels), ids=ids, classes=("object",), scored=False, exclusive=True,
        frame=Frame(height=labels.shape[0], width=labels.shape[1]), crowd=np.zeros(len(ids), bool),
    )  # fmt: skip


def under_centres(labels: NDArray[np.integer], shape: tuple[int, int], step: tuple[float, float]) -> NDArray[np.integer]:
    """The plain way: an array indexed by an array."""
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * s + 1e-6).astype(int), size - 1)
        for n, s, size in zip(shape, step, labels.shape, strict=True)
    )
    return labels[rows[:, None], cols]


@pytest.mark.parametrize("step", [(2.0, 2.0), (0.5, 0.5), (1.37, 0.81), (3.0, 1.0), (0.25, 4.0), (17.0, 23.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_are_taken_where_an_array_would_be(step: tuple[float, float], seed: int):
    labels = blobs(83, 97, seed) % 7
    shape = int(np.ceil(83 / step[0])), int(np.ceil(97 / step[1]))
    wanted = under_centres(labels, shape, step)

    found = at_grid(annotations(labels), Frame(height=shape[0], width=shape[1]), step)

    ids = np.concatenate([[0], found.ids])
    np.testing.assert_array_equal(ids[paint(found.instances, shape)], wanted)
    np.testing.assert_array_equal(found.ids, np.unique(wanted[wanted > 0]))
    assert len(found.crowd) == len(found)
    assert found.tiny == len(np.unique(labels)) - 1 - len(found)


def centroids(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """`(k, 2)` centres of mass of the ids from 1, pixel corners being whole numbers."""
    rows, cols = np.nonzero(labels)
    ids = labels[rows, cols]
    count = np.bincount(ids)[1:]
    return np.stack([np.bincount(ids, weights=at + 0.5)[1:] / count for at in (rows, cols)], axis=1)


def opened(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    crop = scene.crop(scene.frame.window)
    return crop.image, np.concatenate([[0], scene.ids[crop.index]])[crop.labels]


@pytest.mark.parametrize("kind", ["raster", "coco"])
@pytest.mark.parametrize("times", [2.0, 0.5, 1.37, 4.0, 0.3])
def test_labels_overlay_the_image_at_any_gsd(tmp_path, times: float, kind: str):
    labels = discs(3, (150, 181), 20)
    image = np.where(labels > 0, 255, 0).astype(np.uint8)
    write(tmp_path / "a.tif", np.stack([image] * 3))
    if kind == "raster":
        write(tmp_path / "a_label.tif", labels[None].astype("uint16"))
        examples = find_examples([tmp_path / "a.tif"])
    else:
        entries = [{"id": i, "segmentation": rle_of(labels == i)} for i in range(1, labels.max() + 1)]
        path = coco_file(tmp_path / "a.json", entries, size=labels.shape)
        examples = [Example(image=tmp_path / "a.tif", labels=path, coco_image="a.png")]

    scene = open_scenes(examples, reading=Reading(gsd=OWN * times))[0]
    shown, found = opened(scene)

    assert found.shape == (int(np.ceil(150 / times)), int(np.ceil(181 / times)))
    assert scene.gsd_m == pytest.approx(OWN * times)
    assert len(scene.objects) == labels.max()
    assert np.abs(centroids(found) - centroids(labels) / times).max() < 0.5
    bright = shown[..., 0] > 127
    assert (bright != (found > 0)).mean() < 0.06 * max(1.0, times)
    row, col = np.nonzero(found)
    assert shown[row, col, 0].mean() > 200, "labels lie where the image is bright"


def rle_of(mask: NDArray[np.bool_]) -> dict[str, object]:
    """COCO's run lengths, column by column."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [1 - int(mask.T.ravel()[-1])]])
    ends = np.flatnonzero(np.diff(flat) != 0)
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], ends])).tolist()}


KAMPALA = SHARED / "overhead" / "kampala"


@pytest.mark.filterwarnings("ignore::seggeo.errors.SeggeoWarning")
@pytest.mark.skipif(not KAMPALA.exists(), reason="the shared data set is not beside the repository")
@pytest.mark.parametrize("times", [2.0, 0.5])
def test_real_roofs_as_a_raster_lie_where_their_polygons_do(tmp_path, times: float):
    """Polygons are drawn on the work grid itself; a raster of them in the file's own pixels is brought there."""
    image, roofs = KAMPALA / "kampala_dense_z21.tif", KAMPALA / "kampala_dense_buildings.geojson"
    drawn = open_scenes([Example(image=image, labels=roofs)], allow_overlap=True)[0]
    frame = drawn.frame
    write(tmp_path / "l.tif", opened(drawn)[1][None].astype("uint16"), crs="EPSG:3857", transform=frame.transform)
    reading = Reading(gsd=drawn.gsd_m * times)

    polygons, raster = (
        open_scenes([Example(image=image, labels=labels)], reading=reading, allow_overlap=True)[0]
        for labels in (roofs, tmp_path / "l.tif")
    )
    a, b = opened(polygons)[1], opened(raster)[1]

    assert len(raster.objects) > 20
    assert ((a > 0) & (b > 0)).sum() > (0.93 if times > 1 else 0.96) * ((a > 0) | (b > 0)).sum()
    assert (a == b).mean() > 0.97


def test_without_overviews_or_with_them_labels_are_the_same(tmp_path):
    labels = discs(5, (512, 512), 60)
    image = np.stack([np.where(labels > 0, 200, 40).astype(np.uint8)] * 3)
    write(tmp_path / "plain.tif", image)
    write(tmp_path / "pyramid.tif", image, overviews=[2, 4], tiled=True, blockxsize=128, blockysize=128)
    for name in ("plain", "pyramid"):
        write(tmp_path / f"{name}_label.tif", labels[None].astype("uint16"))

    scenes = open_scenes(find_examples([tmp_path]), reading=Reading(gsd=2 * OWN))

    np.testing.assert_array_equal(opened(scenes[0])[1], opened(scenes[1])[1])


def test_turned_grids_are_no_trouble(tmp_path):
    a, b = OWN * np.cos(0.5), OWN * np.sin(0.5)
    turned = Affine(a, b, 500000, b, -a, 5200000)
    labels = discs(3, (150, 181), 20)
    write(tmp_path / "a.tif", np.stack([np.where(labels > 0, 255, 0).astype(np.uint8)] * 3), transform=turned)
    write(tmp_path / "a_label.tif", labels[None].astype("uint16"), transform=turned)

    _, found = opened(open_scenes(find_examples([tmp_path]), reading=Reading(gsd=2 * OWN))[0])

    assert np.abs(centroids(found) - centroids(labels) / 2).max() < 0.5


def test_labels_of_another_size_or_place_are_refused_at_any_gsd(tmp_path):
    labels = discs(3, (150, 181), 20)
    write(tmp_path / "a.tif", np.stack([labels.astype(np.uint8)] * 3))
    write(tmp_path / "a_label.tif", labels[None, :140].astype("uint16"))
    with pytest.raises(SourceError, match="140 x 181"):
        open_scenes(find_examples([tmp_path]), reading=Reading(gsd=2 * OWN))

    away = Affine(OWN, 0, 500100, 0, -OWN, 5200000)
    write(tmp_path / "a_label.tif", labels[None].astype("uint16"), transform=away)
    with pytest.raises(SourceError, match="does not lie on its image"):
        open_scenes(find_examples([tmp_path]), reading=Reading(gsd=2 * OWN))
