"""The door for arrays: tiled in memory, by the same rules as files."""

import numpy as np
import pytest
from scipy import ndimage as ndi
from support_scenes import KINDS, paint, random_scene, same_partition

import seggeo


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


def test_objects_come_in_order_of_position() -> None:
    image = np.zeros((100, 100), np.int32)
    image[60:70, 5:15], image[10:20, 80:90], image[10:20, 20:30] = 1, 2, 3

    objects = seggeo.segment_array(image, seggeo.Instances.from_labels, tile=40, overlap=20)

    assert objects.box[:, :2].tolist() == [[10, 20], [10, 80], [60, 5]]


def test_the_public_names_are_there() -> None:
    assert all(getattr(seggeo, name) is not None for name in seggeo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        seggeo.nonsense  # noqa: B018 - asking is the test
