"""Recipes: what they refuse, and what size of objects their weights are for."""

import pytest
from support_train import FAST, discs, write_pair

from seggeo.errors import ConfigError
from seggeo.train.examples import find_examples
from seggeo.train.recipe import Recipe
from seggeo.train.scene_opening import open_scenes
from seggeo.train.tasks import make_task


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "yolo"}, {"crop": 100}, {"crop": 0}, {"batch": 0}, {"rate": -1.0}, {"rate": float("nan")}, {"val": 0.0},
        {"val": 1.0}, {"seed": -1}, {"minutes": 0.0, "steps": 0}, {"minutes": float("nan")}, {"minutes": float("inf")},
        {"steps": -1}, {"diameter": (9.0, 3.0)}, {"zoom": (0.0, 1.0)},
    ],
)  # fmt: skip
def test_recipes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        Recipe(**{**FAST, **wrong})


def test_images_of_unknown_resolution_are_known_by_the_size_of_their_objects(tmp_path):
    for i in range(2):
        write_pair(tmp_path / "d", f"i{i}", discs(i), geo=False)
    scenes = open_scenes(find_examples([tmp_path / "d"]))

    for sizes, low, high in (((14.0, 16.0), 14.0, 16.0), ((8.0, 32.0), 9.6, 26.7)):
        card = make_task(Recipe(**FAST, diameter=sizes), scenes, None).card()
        assert card["diameters"] == pytest.approx([low, high], rel=0.01)
        assert card["gsd"] == 0
    assert 11 < make_task(Recipe(**FAST), scenes, None).card()["diameter"] < 17
