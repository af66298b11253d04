"""Who says how large a pixel of a slide is, and who is believed."""

import warnings

import numpy as np
import pytest
import tifffile
from support_slides import SVS, needs_svs, open_native, tissue, write_ome, write_svs, write_zarr

from seggeo.errors import ConfigError, SeggeoWarning, SourceError
from seggeo.io.mpp import Claim, claim, settle_mpp, tiff_claim, to_um
from seggeo.io.slide_openslide import property_claims


def told(origin, um):
    return Claim(origin=origin, row=um, col=um)


@pytest.mark.parametrize("first", ["vendor", "OME", "DICOM"])
def test_claims_are_believed_in_a_fixed_order_whatever_order_they_come_in(first):
    order = ("vendor", "OME", "DICOM", "TIFF resolution")
    claims = [told(origin, 0.25) for origin in order[order.index(first) :]]

    assert settle_mpp(reversed(claims), None, "a.svs").origin == first


def test_values_that_differ_by_more_than_a_twentieth_warn_and_the_first_is_used():
    with pytest.warns(SeggeoWarning, match=r"vendor says 0.25 um/px, but it also has 0.5 from its TIFF resolution"):
        assert settle_mpp([told("TIFF resolution", 0.5), told("vendor", 0.25)], None, "a.svs").row == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settle_mpp([told("TIFF resolution", 0.26), told("vendor", 0.25)], None, "a.svs").row == 0.25


def test_the_user_wins_and_hears_of_it():
    with pytest.warns(SeggeoWarning, match=r"you say 0.25 um/px, but it also has 0.5 from its vendor; 0.25 is used"):
        chosen = settle_mpp([told("vendor", 0.5)], 0.25, "a.svs")

    assert (chosen.row, chosen.col, chosen.origin) == (0.25, 0.25, "user")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_length_is_no_claim_and_no_answer_of_a_user(value):
    assert claim("vendor", value, value) == ()
    with pytest.raises(ConfigError, match="side of a pixel"):
        settle_mpp([], value, "a.svs")


@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 300, 600])
def test_the_resolution_of_a_printer_is_no_mpp(dpi):
    assert tiff_claim(dpi, dpi, 25400.0) == ()


def test_a_resolution_without_a_unit_says_nothing():
    assert tiff_claim(20000, 20000, None) == ()
    assert tiff_claim(40000, 20000, 10000.0) == (Claim(origin="TIFF resolution", row=0.25, col=0.5),)


@pytest.mark.parametrize(
    ("unit", "um"), [("µm", 1.0), ("\u03bcm", 1.0), ("micron", 1.0), ("nm", 1e-3), ("mm", 1e3), ("pixel", None), ("", None)]
)
def test_units_are_read_and_those_that_are_no_length_refused(unit, um):
    assert to_um(1.0, unit) == um


def test_a_plain_tiffs_tags_are_not_taken_for_the_word_of_a_scanner():
    properties = {"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8", "openslide.vendor": "generic-tiff"}
    tags = {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}

    assert property_claims(properties | tags) == ()
    assert [c.origin for c in property_claims(properties | {"openslide.vendor": "dicom", "openslide.mpp-x": "1"})] == ["DICOM"]


@needs_svs
def test_a_real_slide_says_what_its_scanner_wrote():
    with open_native(SVS) as source:
        assert (source.mpp.row, source.mpp.col, source.mpp.origin) == (0.499, 0.499, "vendor")
        assert source.frame.spacing == (1.0, 0.499, 0.499)
        assert source.frame.unit == "um"


def test_files_say_it_each_in_their_own_way(tmp_path):
    planes = np.zeros((2, 300, 200), np.uint16)
    tifffile.imwrite(tmp_path / "ij.tif", planes, imagej=True, resolution=(4, 2), metadata={"unit": "um", "axes": "CYX"})
    tifffile.imwrite(tmp_path / "p.tif", planes[0], resolution=(20000, 20000), resolutionunit="CENTIMETER", tile=(64, 64))
    made = {
        write_svs(tmp_path / "a.svs", tissue(300, 300)): (0.25, 0.25, "vendor"),
        write_ome(tmp_path / "o.ome.tif", planes, names="ab", mpp=325, unit="nm"): (0.325, 0.325, "OME"),
        write_zarr(tmp_path / "z.zarr", planes, mpp=0.65): (0.65, 0.65, "OME"),
        tmp_path / "ij.tif": (0.5, 0.25, "TIFF resolution"),
        tmp_path / "p.tif": (0.5, 0.5, "TIFF resolution"),
    }
    for path, expected in made.items():
        with open_native(path) as source:
            assert (source.mpp.row, source.mpp.col, source.mpp.origin) == pytest.approx(expected)


def test_a_slide_that_says_nothing_is_in_pixels_and_cannot_be_brought_to_an_mpp(tmp_path):
    path = write_svs(tmp_path / "a.svs", tissue(300, 300), mpp=None)

    with open_native(path) as source:
        assert (source.mpp, source.frame.unit, source.frame.spacing) == (None, "px", (1.0, 1.0, 1.0))
    with pytest.raises(SourceError, match="does not say how large its pixels are"):
        open_native(path, work_mpp=0.5)
    with open_native(path, mpp=0.25, work_mpp=0.5) as source:
        assert source.frame.scale == pytest.approx(2.0)
