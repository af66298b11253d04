"""Intensities and stains of cells: equal to looking at every cell by itself, and to scikit-image's unmixing."""

import numpy as np
import pytest
from skimage.color import rgb2hed
from support_results import empty_result, result_of
from support_scenes import random_scene

from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.protocols import Pixels
from seggeo.run.intensity import Rule, measure, plain, unmixing, white_of


class Picture:
    """An image in memory; counts the pixels that are read."""

    def __init__(self, data, bands):
        self.data, self.bands, self.read_px = data, bands, 0
        self.frame = Frame(height=data.shape[0], width=data.shape[1])

    def read(self, window, z=0):
        self.read_px += window.area
        return Pixels(data=self.data[window.slices()], valid=np.ones(window.shape, bool))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch", [7, 1000])
def test_means_are_those_of_each_cell(tmp_path, seed, batch):
    labels = random_scene("discs", seed, (300, 2500))
    image = np.random.default_rng(seed).integers(0, 60000, (*labels.shape, 2)).astype(np.uint16)
    result = result_of(labels, batch=batch)

    found = measure(result, Picture(image, ("DAPI", "Ki-67 (far red)")), tmp_path)

    assert list(found) == ["mean_dapi", "mean_ki_67__far_red"]
    for objects in result.iter_objects():
        for number, (box, mask) in zip(objects.id, objects.instances, strict=True):
            inside = image[box[0] : box[2], box[1] : box[3]][mask]
            assert found["mean_dapi"][number - 1] == pytest.approx(inside[:, 0].mean(), rel=1e-6)
            assert found["mean_ki_67__far_red"][number - 1] == pytest.approx(inside[:, 1].mean(), rel=1e-6)


def test_stains_are_scikit_images(tmp_path):
    rng = np.random.default_rng(1)
    labels = random_scene("discs", 1, (200, 200))
    amounts = rng.uniform(0.02, 0.5, (labels.max() + 1, 3))
    norm = np.linalg.norm([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], axis=1)
    shown = 10 ** -(amounts @ np.linalg.inv(unmixing()))[labels]
    image = np.clip(np.rint(255 * shown), 1, 255).astype(np.uint8)
    result = result_of(labels)

    found = measure(result, Picture(image, ("red", "green", "blue")), tmp_path, white=(255, 255, 255))
    theirs = rgb2hed(image) * 6 * norm  # theirs divides by the logarithm of 1e-6, of stains of other lengths

    for objects in result.iter_objects():
        for number, (box, mask) in zip(objects.id, objects.instances, strict=True):
            place = np.s_[box[0] : box[2], box[1] : box[3]]
            own = amounts[labels[place][mask][0]]
            ours = [found[f"od_{name}"][number - 1] for name in ("hematoxylin", "eosin", "dab")]
            np.testing.assert_allclose(ours, own, atol=0.02)
            np.testing.assert_allclose(ours, theirs[place][mask].mean(axis=0), atol=0.02)
            assert found["mean_green"][number - 1] == pytest.approx(image[place][mask][:, 1].mean(), rel=1e-6)


def test_only_what_holds_cells_is_read(tmp_path):
    labels = np.zeros((4000, 9000), np.int32)
    labels[100:120, 100:120], labels[110:130, 8000:8010], labels[3900:3910, 30:40] = 1, 2, 3
    picture = Picture(np.ones((*labels.shape, 1), np.uint8), ("gray",))

    found = measure(result_of(labels, batch=2), picture, tmp_path)

    assert found["mean_gray"].tolist() == [1, 1, 1]
    assert picture.read_px < 1000


def test_channels_of_one_plain_name_are_told_apart(tmp_path):
    labels = random_scene("discs", 0, (60, 60))
    image = np.stack([np.full(labels.shape, v) for v in (1, 2, 3)], axis=2).astype(np.uint8)
    found = measure(result_of(labels), Picture(image, ("Cy5", "cy5", "DAPI")), tmp_path)
    assert {name: values[0] for name, values in found.items()} == {"mean_cy5_1": 1, "mean_cy5_2": 2, "mean_dapi": 3}


def test_no_cells_have_no_columns_of_any_length(tmp_path):
    frame = Frame(height=50, width=60)
    found = measure(empty_result(frame), Picture(np.zeros((50, 60, 1), np.uint8), ("gray",)), tmp_path)
    assert [len(v) for v in found.values()] == [0]


def test_white_is_the_glass():
    data = np.full((100, 100, 3), (240, 236, 242), np.uint8)
    data[:60] = (150, 80, 160)
    data[0, 0] = 255
    assert white_of(Pixels(data=data, valid=np.ones((100, 100), bool))) == (240, 236, 242)


def test_rules_of_positivity(tmp_path):
    columns = {"mean_cd3": np.array([1.0, 500.0, 900.0]), "od_dab": np.array([0.1, 0.26, np.nan])}

    assert Rule("dab > 0.25").apply(columns, tmp_path).tolist() == [False, True, False]
    assert Rule("CD3>600").apply(columns, tmp_path).tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="has no ki_67"):
        Rule("Ki-67>3").apply(columns, tmp_path)
    for wrong in ("dab", "dab>", ">3", "dab<3", "dab>x", "dab>nan", "dab>1e400", "dab>-inf"):
        with pytest.raises(ConfigError, match="positive"):
            Rule(wrong)
    assert plain("  DAPI ") == "dapi"
    assert plain("%%") == "band"
