"""A user's own model: what may come back, what is refused and how, and what is recorded."""

from __future__ import annotations

import hashlib
import sys
import warnings

import numpy as np
import pytest
from contracts.segmenters import blobs, same, tile_image

from seggeo.errors import ConfigError, ModelError, SeggeoWarning
from seggeo.instances import Instances
from seggeo.models.custom import load_custom
from seggeo.protocols import ModelRequest, Prediction
from seggeo.tiling import Tile

HEAD = """
import numpy as np
from seggeo.instances import Instances
from seggeo.protocols import Prediction
"""


@pytest.fixture
def make(tmp_path):
    """Write `my_model.py` and load a name from it."""

    def load(code, name="Mine", **settings):
        (tmp_path / "my_model.py").write_text(HEAD + code)
        return load_custom(f"{tmp_path / 'my_model.py'}:{name}", ModelRequest(name="x", settings=settings))

    return load


def returning(expression, attributes="pass"):
    """A model whose every result is one expression of `tile`."""
    return f"class Mine:\n    {attributes}\n    def predict(self, tiles):\n        return [{expression} for tile in tiles]\n"


def one(model, image=None):
    return model.predict([tile_image(blobs(20, 30, seed=1) if image is None else image)])[0]


def test_the_three_kinds_of_result_say_the_same(make):
    labels = np.zeros((20, 30), int)
    labels[2:5, 3:9], labels[10:15, 20:22] = 4, 9
    expected = Instances.from_labels(labels)
    image = np.repeat(labels[..., None], 3, axis=2).astype(np.uint8)
    for expression in (
        "tile[..., 0].astype('int64')",
        "tile[..., 0]",
        "{'masks': np.stack([tile[..., 0] == 4, tile[..., 0] == 9])}",
        "{'masks': [tile[..., 0] == 4, tile[..., 0] == 9], 'scores': None, 'labels': (0, 0)}",
        "Instances.from_labels(tile[..., 0])",
        "Prediction(instances=Instances.from_labels(tile[..., 0]))",
    ):
        assert same(one(make(returning(expression)), image).instances, expected), expression


def test_scores_labels_and_caps_come_through(make):
    model = make(
        returning(
            "Prediction(instances=Instances.from_masks(tile[None, :2, :2, 0] < 256, score=[0.25], label=[1]), capped=True)",
            "classes = ['car', 'house']",
        )
    )
    found = one(model)
    assert isinstance(found, Prediction)
    assert found.capped
    assert model.info.classes == ("car", "house")
    assert (found.instances.score.tolist(), found.instances.label.tolist()) == ([0.25], [1])
    masks = "{'masks': np.stack([tile[..., 0] < 0, tile[..., 0] < 256]), 'scores': [0.1, 0.9], 'labels': np.array([0, 1])}"
    found = one(make(returning(masks, "classes = ('car', 'house')"))).instances
    np.testing.assert_allclose(found.score, [0.9])  # the empty mask is gone, and its score with it
    assert found.label.tolist() == [1]
    assert len(one(make(returning("{'masks': []}"))).instances) == 0


def test_settings_are_keyword_arguments_and_nothing_else(make):
    code = "class Mine:\n    def __init__(self, level, *, size=3):\n        self.got = (level, size)\n    predict = print\n"
    model = make(code, level=7)
    assert model.model.got == (7, 3)
    assert model.info.settings == {"level": 7}
    for wrong in ({}, {"level": 1, "sise": 2}):
        with pytest.raises(ConfigError, match=r"Mine\(level, \*, size=3\)"):
            make(code, **wrong)
    factory = "def build(**settings):\n    return Mine()\n" + returning("tile[..., 0]")
    assert make(factory, "build", anything=1).info.name == "build"


def test_what_the_class_says_of_itself(make):
    plain = make(returning("tile[..., 0]")).info
    assert (plain.name, plain.classes, plain.exclusive, plain.native, plain.channels) == ("Mine", ("object",), True, False, 3)
    said = make(returning("tile[..., 0]", "name, native, exclusive, tile, overlap = 'cars', True, False, 512, 64")).info
    assert (said.name, said.native, said.exclusive, said.channels) == ("cars", True, False, None)
    assert (said.tile, said.overlap) == (512, 64)


@pytest.mark.parametrize(
    "attributes", ["classes = 'car'", "classes = ()", "classes = (1, 2)", "native = 1", "exclusive = 'no'", "tile = 5.0"]
)
def test_attributes_of_the_wrong_kind_are_refused(make, attributes):
    with pytest.raises(ModelError, match=attributes.partition(" ")[0]):
        make(returning("tile[..., 0]", attributes))


def test_tiles_are_the_users_to_write_into_and_places_come_on_request(make):
    code = """
class Mine:
    wants_places = True
    def predict(self, tiles, places):
        out = []
        for tile, place in zip(tiles, places, strict=True):
            assert tile.flags.c_contiguous and tile.flags.writeable and tile.dtype == np.uint8
            tile[:] = 0
            tile[0, 0] = place.row + 1
            out.append(tile[..., 0])
        return out
"""
    image = blobs(20, 30, seed=2)
    before, tile = image.copy(), tile_image(image, inner=True)
    image.setflags(write=False)
    assert isinstance(tile.tile, Tile)
    found = make(code).predict([tile])[0].instances
    assert found.box.tolist() == [[0, 0, 1, 1]]
    assert np.array_equal(image, before)


def test_native_models_get_the_files_own_bands(make):
    code = returning("(tile[..., 4] > 9000).astype(int)", "native = True")
    image = np.zeros((9, 8, 5), np.uint16)
    image[2, 3, 4] = 10_000
    assert one(make(code), image).instances.box.tolist() == [[2, 3, 3, 4]]


OVERLAPPING = "{'masks': np.stack([tile[..., 0] < 256, np.arange(600).reshape(20, 30) < 60]), 'scores': [0.3, 0.8]}"


def test_overlaps_stay_where_the_model_allows_them(make):
    assert one(make(returning(OVERLAPPING, "exclusive = False"))).instances.area.tolist() == [600, 60]


def test_overlaps_are_painted_flat_with_a_warning_by_default(make):
    with pytest.warns(SeggeoWarning, match="exclusive = False"):
        found = one(make(returning(OVERLAPPING))).instances
    assert found.area.tolist() == [540, 60]
    np.testing.assert_allclose(found.score, [0.3, 0.8])
    hidden = "{'masks': np.stack([np.arange(600).reshape(20, 30) < 60, tile[..., 0] < 256]), 'scores': [0.3, 0.8]}"
    with pytest.warns(SeggeoWarning):
        assert one(make(returning(hidden))).instances.area.tolist() == [600]


def test_overlaps_are_an_error_where_the_model_promised_none(make):
    with pytest.raises(ModelError, match="tile 0"):
        one(make(returning(OVERLAPPING, "exclusive = True")))


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("None", "a NoneType"),
        ("[[1, 2]]", "a list"),
        ("tile", r"shape \(20, 30, 3\)"),
        ("tile[:-1, :, 0]", r"shape \(19, 30\)"),
        ("tile[..., 0] / 2", "of float64"),
        ("tile[..., 0] > 3", "a boolean image"),
        ("-tile[..., 0].astype(int) - 1", "the value -"),
        ("np.array([['a'] * 30] * 20)", "label image of <U1"),
        ("{}", "the keys none"),
        ("{'mask': tile}", "the keys mask"),
        ("{'masks': tile[..., 0] > 3}", r"masks of shape \(20, 30\)"),
        ("{'masks': tile[None, ..., 0]}", "masks of uint8"),
        ("{'masks': tile[None, :3, :3, 0] > 3}", r"masks of shape \(1, 3, 3\)"),
        ("{'masks': [tile[..., 0] > 3, tile[:3, :3, 0] > 3]}", "different shapes"),
        ("{'masks': tile[None, ..., 0] > 3, 'scores': [0.5, 0.5]}", r"scores of shape \(2,\)"),
        ("{'masks': tile[None, ..., 0] > 3, 'scores': [1.5]}", "a score of 1.5"),
        ("{'masks': tile[None, ..., 0] > 3, 'scores': [float('nan')]}", "a score of nan"),
        ("{'masks': tile[None, ..., 0] > 3, 'scores': ['good']}", "scores of shape"),
        ("{'masks': tile[None, ..., 0] > 3, 'labels': [1]}", "a label of 1"),
        ("{'masks': tile[None, ..., 0] > 3, 'labels': [-1]}", "a label of -1"),
        ("{'masks': tile[None, ..., 0] > 3, 'labels': [0.0]}", "labels of shape"),
        ("Instances.from_labels(tile[..., 0]).shift(5, 0)", "outside the tile"),
        ("Instances.from_labels(tile[..., 0]).shift(0, 0, 2)", "slice 2"),
        ("Instances.from_labels(tile[..., 0], score=2.0)", "a score of 2.0"),
        ("Instances.from_labels(tile[..., 0], label=3)", "a label of 3"),
    ],
)
def test_results_that_do_not_fit_are_refused_by_tile(make, expression, why):
    model = make(returning(f"np.zeros((20, 30), int) if (tile == 7).all() else {expression}"))
    good, bad = tile_image(np.full((20, 30, 3), 7, np.uint8)), tile_image(blobs(20, 30, seed=1))
    assert len(model.predict([good])) == 1
    with pytest.raises(ModelError, match=why) as caught:
        model.predict([good, bad])
    assert "tile 1" in caught.value.what
    assert "20 x 30 px" in caught.value.why


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("None", "NoneType"),
        ("tiles[0][..., 0]", "ndarray"),
        ("[]", "0 results for 2"),
        ("[1] * 3", "3 results"),
        ("{}", "dict"),
    ],
)
def test_one_result_per_tile(make, result, why):
    model = make(f"class Mine:\n    def predict(self, tiles):\n        return {result}\n")
    with pytest.raises(ModelError, match=why):
        model.predict([tile_image(blobs(20, 30, seed=s)) for s in (1, 2)])


def test_a_stack_of_label_images_will_do(make):
    model = make("class Mine:\n    def predict(self, tiles):\n        return np.stack(tiles)[..., 0]\n")
    assert len(model.predict([tile_image(blobs(20, 30, seed=s)) for s in (1, 2)])) == 2


def test_the_users_own_exceptions_pass_through(make):
    with pytest.raises(ZeroDivisionError):
        one(make(returning("1 / 0")))


def test_a_model_that_ends_the_program_is_a_model_that_fails(make):
    model = make("import sys\nclass Mine:\n    def predict(self, tiles):\n        sys.exit()\n")
    with pytest.raises(ModelError, match="ended the program"):
        one(model)


@pytest.mark.parametrize("spec", ["model.py", "model:Mine", "model.py:", "model.py:not a name", "nowhere.py:Mine"])
def test_a_spec_that_leads_nowhere(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        load_custom(spec, ModelRequest(name=spec))


def test_a_wrong_name_lists_the_right_ones(make):
    with pytest.raises(ConfigError, match=r"my_model\.py:Mine") as caught:
        make(returning("tile"), "Mime")
    assert "Instances" not in caught.value.why  # imported, not defined
    with pytest.raises(ConfigError, match="not callable"):
        make("Mine = 3")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def broken(:\n", "SyntaxError.* line 5: def broken"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError.* line 5: import nothing"),
        ("def f():\n    raise KeyError('gone')\nf()\n", "KeyError.* line 6: raise KeyError"),
        ("raise SystemExit(3)\n", "SystemExit.* line 5"),
    ],
)
def test_a_file_that_cannot_be_imported_shows_the_users_line(make, code, why):
    before = set(sys.modules)
    with pytest.raises(ModelError, match=why):
        make(code)
    assert not {m for m in set(sys.modules) - before if m.startswith("seggeo_custom")}


def test_a_constructor_that_fails_shows_the_users_line(make):
    with pytest.raises(ModelError, match=r"ValueError: too big.* line 7: raise ValueError") as caught:
        make("class Mine:\n    def __init__(self, n):\n        raise ValueError('too big')\n    predict = print\n", n=9)
    assert caught.value.what == "Mine(n=9) failed"


def test_an_object_without_predict_is_no_model(make):
    with pytest.raises(ModelError, match="without a method predict"):
        make("class Mine:\n    pass\n")


def test_weights_are_a_setting_like_any_other(tmp_path):
    (tmp_path / "m.py").write_text(returning("tile[..., 0]"))
    with pytest.raises(ConfigError, match="--set weights="):
        load_custom(f"{tmp_path / 'm.py'}:Mine", ModelRequest(name="m", weights=tmp_path / "w.pt"))


def test_an_edited_model_is_another_model(make, tmp_path):
    first = make(returning("tile[..., 0]")).info.weights_sha256
    assert first == hashlib.sha256((tmp_path / "my_model.py").read_bytes()).hexdigest()
    assert make(returning("tile[..., 0]")).info.weights_sha256 == first
    # Same length, same second: a cached bytecode file would still hold the old code.
    edited = make(returning("tile[..., 1]"))
    assert edited.info.weights_sha256 != first
    image = np.zeros((4, 4, 3), np.uint8)
    image[1, 1, 1] = 1
    assert len(one(edited, image).instances) == 1


def test_modules_beside_the_file_are_found_hashed_and_forgotten(make, tmp_path):
    code = "from helper import level\n" + returning("(tile[..., 0] > level).astype(int)")
    (tmp_path / "helper.py").write_text("level = 5\n")
    path, modules = list(sys.path), set(sys.modules)
    low = make(code)
    assert sys.path == path
    assert "helper" not in sys.modules
    assert all(name.startswith("seggeo_custom_") for name in set(sys.modules) - modules)
    (tmp_path / "helper.py").write_text("level = 255  # never above\n")
    high = make(code)
    assert low.info.weights_sha256 != high.info.weights_sha256
    assert len(one(low).instances) == 1
    assert len(one(high).instances) == 0


def test_dataclasses_and_annotations_work_in_the_file(make):
    code = """
from dataclasses import dataclass

@dataclass
class Mine:
    level: int = 3
    def predict(self, tiles: list[np.ndarray]) -> list:
        assert type(self).__dataclass_fields__["level"].type is int
        return [(tile[..., 0] > self.level).astype(int) for tile in tiles]
"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(one(make(code, level=250)).instances) == 0
