"""Validation: what its figures say of classes, held against the evaluation of whole images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapely import box
from support_annotations import at_pixels, polygon_file, utm_frame
from support_io import write
from support_train import discs, one_scene

from seggeo.evaluation.api import evaluate
from seggeo.evaluation.objects import objects_of
from seggeo.instances import Instances
from seggeo.protocols import ModelInfo, Prediction
from seggeo.train.examples import find_examples
from seggeo.train.scene_opening import open_scenes
from seggeo.train.validate import judge

KINDS = ("roof", "tree", "car")


class Reader:
    """Finds objects by the values of the first band; the second band says their class."""

    info = ModelInfo(name="reader", channels=3, exclusive=True, settings={}, classes=KINDS)

    def __init__(self, wrong=0):
        """`wrong`: every so many objects are told to be of the next class; 0: none."""
        self.wrong = wrong

    def predict(self, tiles):
        return [Prediction(instances=self.one(tile.image)) for tile in tiles]

    def one(self, image):
        found = Instances.from_labels(image[..., 0].astype(np.int32))
        centre = [(int(b[0] + b[2]) // 2, int(b[1] + b[3]) // 2) for b in found.box]
        label = np.array([image[row, col, 1] for row, col in centre], np.int32)
        if self.wrong:
            label[:: self.wrong] = (label[:: self.wrong] + 1) % len(KINDS)
        return replace(found, label=label)


def squares(folder, kinds):
    """A scene of 24 squares of the classes named, which its image shows as they are."""
    frame = utm_frame(120, 160)
    places = [(row, col) for row in range(5, 110, 30) for col in range(5, 150, 25)]
    names = [kinds[i % len(kinds)] for i in range(len(places))]
    shapes = [at_pixels(box(col, row, col + 12, row + 12), frame) for row, col in places]
    image = np.zeros((3, 120, 160), np.uint8)
    for i, (row, col) in enumerate(places):
        image[0, row : row + 12, col : col + 12] = i + 1
    polygon_file(folder / "a_label.gpkg", shapes, kind=names)
    write(folder / "a.tif", image)
    scene = open_scenes(find_examples([folder], attribute="kind"))[0]
    for i, (row, col) in enumerate(places):
        image[1, row : row + 12, col : col + 12] = scene.classes.index(names[i])
    write(folder / "a.tif", image)
    return open_scenes(find_examples([folder], attribute="kind"))[0]


def test_right_classes_are_as_good_as_no_classes(tmp_path):
    found = judge(Reader(), [squares(tmp_path, KINDS)]).metrics

    assert (found["pq"], found["pq_classes"]) == (1.0, 1.0)


def test_masks_of_the_wrong_class_are_right_and_wrong(tmp_path):
    found = judge(Reader(wrong=1), [squares(tmp_path, KINDS)]).metrics

    assert (found["pq"], found["pq_classes"]) == (1.0, 0.0)


@pytest.mark.parametrize("wrong", [2, 3, 5])
@pytest.mark.parametrize("kinds", [KINDS, ("roof", "roof", "tree")])
def test_it_is_the_mean_over_classes_that_occur(tmp_path, wrong, kinds):
    scene = squares(tmp_path, kinds)
    crop = scene.crop(scene.frame.window)
    truth = replace(Instances.from_labels(crop.labels), label=crop.classes)
    pred = Reader(wrong).one(crop.image)
    pred = replace(pred, label=pred.label % len(scene.classes))
    each = evaluate([objects_of(pred, classes=scene.classes, scored=True)], [objects_of(truth, classes=scene.classes)]).classes

    class Known(Reader):
        def one(self, image):
            return pred

    found = judge(Known(), [scene])

    assert found.metrics["pq_classes"] == pytest.approx(np.mean([s.pq for s in each.values()]), abs=1e-4)
    assert 0 < found.metrics["pq_classes"] < found.metrics["pq"] == 1.0


def test_one_class_has_no_such_figure(tmp_path):
    class Values:
        info = replace(Reader.info, classes=("object",))

        def predict(self, tiles):
            return [Prediction(instances=Instances.from_labels((t.image[..., 0] > 120).astype(np.int32))) for t in tiles]

    assert "pq_classes" not in judge(Values(), [one_scene(tmp_path, discs(0))]).metrics
