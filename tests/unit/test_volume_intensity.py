"""Brightness of a volume's objects: equal to scikit-image on the whole volume, from windows that hold objects only."""

import numpy as np
import pytest
from skimage.measure import regionprops
from support_volume import blobs, objects_in, placement, volume_of

from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.protocols import Pixels
from seggeo.run import volume_intensity
from seggeo.run.volume_intensity import measure_volume


class Voxels:
    """A volume in memory, `(z, row, col, band)`; counts what is read."""

    def __init__(self, data, bands=("gray",), valid=None):
        self.data, self.bands, self.valid, self.read_px = data, bands, valid, 0
        self.frame = Frame(depth=data.shape[0], height=data.shape[1], width=data.shape[2], placement=placement())

    def read(self, window, z=0):
        self.read_px += window.area
        place = (z, *window.slices())
        return Pixels(data=self.data[place], valid=np.ones(window.shape, bool) if self.valid is None else self.valid[place])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("window", [(5, 7), (1024, 2048)])
def test_values_are_those_of_each_object(tmp_path, monkeypatch, seed, batch, window):
    monkeypatch.setattr(volume_intensity, "_HEIGHT", window[0])
    monkeypatch.setattr(volume_intensity, "_WIDTH", window[1])
    labels = blobs(seed, (7, 30, 40), 20)
    data = np.random.default_rng(seed).normal(-500, 300, (*labels.shape, 2)).astype(np.float32)

    found = measure_volume(volume_of(labels, batch=batch), Voxels(data, ("CT (HU)", "PET")), tmp_path)

    assert list(found) == ["mean_ct__hu", "min_ct__hu", "max_ct__hu", "mean_pet", "min_pet", "max_pet"]
    for props in regionprops(labels.astype(int), data):
        for band, name in enumerate(("ct__hu", "pet")):
            assert found[f"mean_{name}"][props.label - 1] == pytest.approx(props.intensity_mean[band], rel=1e-6)
            assert found[f"min_{name}"][props.label - 1] == props.intensity_min[band]
            assert found[f"max_{name}"][props.label - 1] == props.intensity_max[band]


def test_what_is_not_valid_does_not_count(tmp_path):
    labels = np.zeros((2, 6, 6), np.uint8)
    labels[:, 1:4, 1:4], labels[1, 5, 5] = 1, 2
    data = np.full((2, 6, 6, 1), 10, np.float32)
    data[0, 1, 1], data[1, 3, 3], data[0, 2, 2] = -999, 40, np.nan
    valid = np.ones(labels.shape, bool)
    valid[0, 1, 1] = valid[1, 5, 5] = False

    found = measure_volume(volume_of(labels), Voxels(data, valid=valid), tmp_path)

    assert found["mean_intensity"][0] == pytest.approx((15 * 10 + 40) / 16)
    assert (found["min_intensity"][0], found["max_intensity"][0]) == (10, 40)
    assert np.isnan([column[1] for column in found.values()]).all()


def test_objects_that_share_voxels_each_count_them(tmp_path):
    data = np.arange(100, dtype=np.uint16).reshape(1, 10, 10, 1)
    masks = np.zeros((3, 10, 10), bool)
    masks[0, 2:8, 2:8], masks[1, 4:6, :], masks[2, :, 9] = True, True, True
    objects = objects_in(Instances.from_masks(masks), np.arange(1, 4))
    whole = volume_of(np.zeros((1, 10, 10), int))

    found = measure_volume(type(whole)(whole.frame, lambda z: objects, 3, exclusive=False), Voxels(data), tmp_path)

    inside = [data[0, ..., 0][mask] for mask in masks]
    assert found["mean_intensity"] == pytest.approx([v.mean() for v in inside])
    assert found["min_intensity"].tolist() == [v.min() for v in inside]
    assert found["max_intensity"].tolist() == [v.max() for v in inside]


def test_only_what_holds_objects_is_read(tmp_path):
    labels = np.zeros((4, 3000, 5000), np.uint8)
    labels[1, 100:110, 100:110], labels[1, 2000:2010, 4500:4510], labels[3, :3, :3] = 1, 2, 3
    voxels = Voxels(np.broadcast_to(np.uint8(3), (*labels.shape, 1)))

    assert measure_volume(volume_of(labels), voxels, tmp_path)["mean_intensity"].tolist() == [3, 3, 3]
    assert voxels.read_px == 209
    assert {k: len(v) for k, v in measure_volume(volume_of(labels * 0), voxels, tmp_path / "no").items()} == {
        "mean_intensity": 0, "min_intensity": 0, "max_intensity": 0,
    }  # fmt: skip
