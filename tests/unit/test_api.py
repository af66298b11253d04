"""The door for arrays: tiled in memory, by the same rules as files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage as ndi
from support_scenes import KINDS, paint, random_scene, same_partition

import seggeo
from seggeo.errors import ConfigError, GeometryError, ModelError


def components(window: np.ndarray) -> np.ndarray:
    """4-connected pieces of every id, numbered through."""
    labels, count = np.zeros(window.shape, np.int32), 0
    for value in np.unique(window[window > 0]):
        pieces, found = ndi.label(window == value)
        labels[pieces > 0] = pieces[pieces > 0] + count
        count += found
    return labels


@pytest.mark.parametrize("kind", KINDS)
def test_tiling_does_not_change_the_answer(kind: str) -> None:
    truth = random_scene(kind, seed=5, shape=(150, 170))

    objects = seggeo.segment_array(truth, components, tile=64, overlap=16)

    assert same_partition(paint(objects, truth.shape), truth)


def test_a_function_may_return_instances_and_an_empty_image_has_none() -> None:
    empty = np.zeros((90, 90), np.int32)

    assert len(seggeo.segment_array(empty, seggeo.Instances.from_labels, tile=32, overlap=8)) == 0


TWO = np.zeros((90, 90), np.uint8)
TWO[10:20, 10:20], TWO[50:70, 30:60] = 1, 1


def masked(window: np.ndarray) -> dict[str, np.ndarray]:
    labels = components(window)
    return {"masks": labels[None] == np.arange(1, labels.max() + 1)[:, None, None]}


def test_what_a_model_of_ones_own_may_return_a_function_may(tmp_path: Path) -> None:
    labelled = seggeo.segment_array(TWO, components, tile=64, overlap=16)
    of_masks = seggeo.segment_array(TWO, masked, tile=64, overlap=16)
    many = seggeo.segment_array(
        TWO, lambda w: replace(found := seggeo.Instances.from_labels(components(w)), label=found.label + 7), tile=64, overlap=16
    )

    assert len(labelled) == 2
    assert of_masks.box.tolist() == labelled.box.tolist() == many.box.tolist()
    assert many.label.tolist() == [7, 7], "classes have no names here, so there is no end of them"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: w > 0, "boolean"), (lambda w: w.astype(float), "float64"), (lambda w: w.astype(int) - 1, "value -1"),
        (lambda w: components(w)[3:, 3:], "shape"), (lambda w: components(w)[..., None], "shape"), (lambda w: None, "NoneType"),
        (lambda w: {"masks": w[None]}, "masks of uint8"),
        (lambda w: seggeo.Instances.from_labels(components(w)).shift(80, 0), "outside the tile"),
    ],
)  # fmt: skip
def test_what_a_model_of_ones_own_may_not_return_no_function_may(wrong: Callable[..., Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        seggeo.segment_array(TWO, wrong, tile=64, overlap=16)


@pytest.mark.parametrize(
    "asked",
    [{"match_iou": 5}, {"match_iou": "much"}, {"overlap": 3}, {"tile": "wide"}, {"tile": -64}, {"overlap": 40}],
    ids=str,
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused_as_those_of_a_job_are(asked: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, GeometryError)):
        seggeo.segment_array(TWO, components, **{"tile": 64, "overlap": 16, **asked})
    with pytest.raises(ConfigError, match="image"):
        seggeo.segment_array(TWO[0], components, tile=64, overlap=16)


@pytest.mark.parametrize("wrong", [None, b"a.tif", TWO, 5])
def test_a_path_of_another_type_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="path is of type"):
        seggeo.segment(wrong)
    with pytest.raises(ConfigError, match="paths is of type"):
        seggeo.count_cells([wrong], tmp_path / "out")


def test_objects_come_in_order_of_position() -> None:
    image = np.zeros((100, 100), np.int32)
    image[60:70, 5:15], image[10:20, 80:90], image[10:20, 20:30] = 1, 2, 3

    objects = seggeo.segment_array(image, seggeo.Instances.from_labels, tile=40, overlap=20)

    assert objects.box[:, :2].tolist() == [[10, 20], [10, 80], [60, 5]]


def test_the_public_names_are_there() -> None:
    assert all(getattr(seggeo, name) is not None for name in seggeo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        seggeo.nonsense  # noqa: B018 - asking is the test
