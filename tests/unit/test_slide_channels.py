"""Channels by name or number."""

import numpy as np
import pytest
from support_slides import open_native, tissue, write_ome, write_svs

from seggeo.config import Reading
from seggeo.errors import ConfigError
from seggeo.io.channels import are_colours, choose_channels, nuclear_channel
from seggeo.io.slide import open_slide

NAMES = ("CD3", "CD31", "DAPI", "488 nm")


def choose(asked, *, native=True, names=NAMES, is_rgb=False):
    return choose_channels(names, asked, native=native, is_rgb=is_rgb, name="a.tif")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["dapi"], (2,)),
        (["DAP"], (2,)),
        (["CD3"], (0,)),
        ([3, 1], (2, 0)),
        (["4", "2"], (3, 1)),
        (["488"], (3,)),
        ([" cd31 "], (1,)),
    ],
)
def test_a_channel_is_found_by_its_name_a_part_of_it_or_its_number(asked, found):
    assert choose(asked) == found


@pytest.mark.parametrize("asked", [["CD"], ["GFP"], [0], [5], ["5"], [""], []])
def test_what_means_several_channels_or_none_is_refused(asked):
    with pytest.raises(ConfigError, match="channel"):
        choose(asked)


def test_a_name_that_is_a_number_wins_over_the_number():
    assert choose(["2"], names=("2", "1")) == (0,)
    assert choose([2], names=("2", "1")) == (1,)


def test_without_a_choice_all_are_read_or_the_nuclei_or_the_colours_for_rgb_models():
    assert choose(None) == (0, 1, 2, 3)
    assert choose(None, native=False) == (2, 2, 2)
    assert choose(None, native=False, names=("GFP", "RFP")) == (0, 0, 0)
    assert choose(None, native=False, names=("red", "green", "blue", "band 4"), is_rgb=True) == (0, 1, 2)


def test_rgb_models_get_three_channels_of_up_to_three():
    assert choose(["DAPI"], native=False) == (2, 2, 2)
    assert choose([1, 2], native=False) == (0, 1, 0)
    assert choose([1, 2, 3], native=False) == (0, 1, 2)
    with pytest.raises(ConfigError, match="4 channels for a model"):
        choose([1, 2, 3, 4], native=False)


@pytest.mark.parametrize(("names", "found"), [(("GFP", "Hoechst 33342"), 1), (("dapi",), 0), (("GFP",), None)])
def test_nuclear_stains_are_known_by_name(names, found):
    assert nuclear_channel(names) == found


def test_the_values_are_those_of_the_channels_asked_for(tmp_path):
    planes = np.random.default_rng(1).integers(0, 60000, (3, 200, 150), np.uint16)
    path = write_ome(tmp_path / "a.ome.tif", planes, names=("CD3", "Hoechst", "CD8"))

    with open_native(path) as source:
        assert source.bands == ("CD3", "Hoechst", "CD8")
        assert not source.is_brightfield
        np.testing.assert_array_equal(source.read(source.frame.window).data, planes.transpose(1, 2, 0))
    with open_native(path, channels=("cd8", 1)) as source:
        np.testing.assert_array_equal(source.read(source.frame.window).data, planes[[2, 0]].transpose(1, 2, 0))
    with open_slide(str(path), Reading(), native=False) as source:
        np.testing.assert_array_equal(source.read(source.frame.window).data, planes[[1, 1, 1]].transpose(1, 2, 0))


def test_bands_are_another_way_to_name_channels_and_a_gsd_has_no_meaning(tmp_path):
    path = str(write_svs(tmp_path / "a.svs", tissue(300, 300)))

    with open_slide(path, Reading(bands=(3, 1)), native=True) as source:
        assert source.bands == ("blue", "red")
        assert source.is_brightfield
    with pytest.raises(ConfigError, match="both choose"):
        open_slide(path, Reading(bands=(1,)), native=True, channels=("red",))
    with pytest.raises(ConfigError, match="GSD"):
        open_slide(path, Reading(gsd=0.5), native=True)


@pytest.mark.parametrize(
    ("names", "colours", "expected"),
    [(("Red", "green", "BLUE"), (), True), (("", "", ""), ("ff0000", "00FF00", "0000FF"), True),
     (("Channel 0", "Channel 1", "Channel 2"), ("FF0000", "00FF00", "0000FF"), True),
     (("DAPI", "CD3", "CD8"), ("FF0000", "00FF00", "0000FF"), False), (("", "", ""), ("0000FF", "00FF00", "FF0000"), False),
     (("", "", ""), (), False), (("red", "green"), (), False)],
)  # fmt: skip
def test_three_channels_are_colours_when_their_names_or_else_their_colours_say_so(names, colours, expected):
    assert are_colours(names, colours) == expected


def test_planes_called_red_green_and_blue_are_a_brightfield_slide(tmp_path):
    image = tissue(200, 150)
    path = write_ome(tmp_path / "a.ome.tif", np.ascontiguousarray(image.transpose(2, 0, 1)), names=("Red", "Green", "Blue"))

    with open_slide(str(path), Reading(), native=False) as source:
        assert source.is_brightfield
        np.testing.assert_array_equal(source.read(source.frame.window).data, image)
