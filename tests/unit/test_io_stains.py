"""Stain normalisation: the same amounts look the same, whatever stained them; every pixel by itself; nothing guessed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import combine_stains, separate_stains
from support_stains import OTHER, USUAL, amounts, composed

from seggeo.errors import ConfigError
from seggeo.io.stains import REFERENCE, StainNorm, Stains, apply_stains, fit_stains
from seggeo.io.stretch import Stretch, apply_stretch
from seggeo.protocols import Pixels

SHAPE = (240, 320)


def fitted(image: NDArray[np.uint8]) -> StainNorm:
    return fit_stains([image.reshape(-1, 3)], np.percentile(image.reshape(-1, 3), 98, axis=0))


def test_pictures_of_the_same_amounts_become_the_same_picture():
    usual, other = (composed(amounts(SHAPE), stains) for stains in (USUAL, OTHER))
    before = np.abs(usual.astype(int) - other).mean()

    a, b = (apply_stains(fitted(image), image).astype(int) for image in (usual, other))

    assert before > 20
    assert np.abs(a - b).mean() < 3
    assert np.percentile(np.abs(a - b), 99) < 12


@pytest.mark.parametrize("stains", [USUAL, OTHER])
def test_stains_are_found_as_they_were_put_in(stains: Stains):
    norm = fitted(composed(amounts(SHAPE), stains))

    assert norm.own is not None
    angles = [np.degrees(np.arccos(np.clip(np.dot(a, np.array(b) / np.linalg.norm(b)), -1, 1)))
              for a, b in zip(norm.own.vectors, stains.vectors, strict=True)]  # fmt: skip
    assert max(angles) < 4
    assert np.allclose(norm.own.white, stains.white, atol=2)


def test_what_is_done_equals_unmixing_and_mixing_with_scikit_image():
    """The rival unmixes every pixel with three stains, the third across the other two, and mixes the reference's two."""
    image = composed(amounts(SHAPE), OTHER)
    norm = fitted(image)
    assert norm.own is not None
    own, target = np.array(norm.own.vectors), np.array(REFERENCE.vectors)
    three = np.vstack([own, np.cross(*own)])
    unit = (np.minimum(image, norm.own.white) + 1) / (np.array(norm.own.white) + 1)
    found = separate_stains(np.clip(unit, 1e-6, 1), np.linalg.inv(three))[..., :2]

    # skimage measures densities in units of log(1e6) and drops negative amounts; ours keeps them.
    scaled = found * (np.array(REFERENCE.maxima) / np.array(norm.own.maxima))
    mixed = combine_stains(np.dstack([scaled, np.zeros(SHAPE)]), np.vstack([target, np.cross(*target)]))
    wanted = np.clip((np.array(REFERENCE.white) + 1) * mixed - 1, 0, 255)
    inside = (found > 0).all(axis=2)

    assert inside.mean() > 0.5
    assert np.abs(apply_stains(norm, image) - wanted)[inside].max() < 0.75


def test_a_pixel_depends_on_its_own_value_only():
    image = composed(amounts(SHAPE), OTHER)
    norm = fitted(image)
    whole = apply_stains(norm, image)

    for rows, cols in ((7, 11), (64, 64), (240, 1)):
        parts = np.empty_like(whole)
        for r in range(0, SHAPE[0], rows):
            for c in range(0, SHAPE[1], cols):
                parts[r : r + rows, c : c + cols] = apply_stains(norm, image[r : r + rows, c : c + cols])
        assert np.array_equal(parts, whole)
    banded = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 2, 0)), 0, 2)
    assert np.array_equal(apply_stains(norm, banded), whole), "whatever the order in memory"


def test_every_colour_stays_in_range_and_white_becomes_white():
    norm = fitted(composed(amounts(SHAPE), USUAL))
    values = np.array([0, 1, 60, 128, 200, 243, 254, 255], np.uint8)
    every = np.stack(np.meshgrid(values, values, values), axis=-1).reshape(-1, 8, 3)

    out = apply_stains(norm, every)

    assert norm.own is not None
    assert out.dtype == np.uint8
    assert (apply_stains(norm, np.full((2, 2, 3), 255, np.uint8)) == np.array(REFERENCE.white)).all()
    assert out.reshape(-1, 3)[0].max() < 20, "black stays dark"


def nothing_but(stain: int, noise: float = 2.5) -> NDArray[np.uint8]:
    found = amounts(SHAPE)
    found[..., 1 - stain] = 0
    return composed(found, USUAL, noise)


BROWN = Stains(white=USUAL.white, vectors=(USUAL.vectors[0], (0.27, 0.57, 0.78)), maxima=(1.0, 0.8))
GREY = Stains(white=(240.0, 240.0, 240.0), vectors=((0.577, 0.577, 0.577), (0.577, 0.577, 0.577)), maxima=(1.0, 0.8))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.full((200, 200, 3), 244, np.uint8), "only 0 of the 40000 pixels"),
        (np.zeros((0, 3, 3), np.uint8), "only 0 of the 0 pixels"),
        (np.zeros((60, 60, 3), np.uint8), "one colour"),
        (nothing_but(0), "too near|one colour"),
        (nothing_but(1), "no haematoxylin|too near|one colour"),
        (composed(amounts(SHAPE), GREY, 2.5), "too near|one colour"),
        (composed(amounts(SHAPE), BROWN), "brown of DAB"),
    ],
    ids=["white", "empty", "black", "haematoxylin", "eosin", "grey", "DAB"],
)
def test_what_is_not_two_stains_is_left_as_it_is(image: NDArray[np.uint8], why: str):
    white = np.percentile(image.reshape(-1, 3), 98, axis=0) if image.size else [255, 255, 255]

    norm = fit_stains([image.reshape(-1, 3)], white)

    assert norm.kind == "none"
    assert norm.why
    assert any(text in norm.why for text in why.split("|"))
    assert apply_stains(norm, image) is image


def test_stretches_go_to_json_and_back():
    norm = fitted(composed(amounts(SHAPE), USUAL))
    for stains in (None, norm, StainNorm(kind="none", why="it is blank")):
        stretch = Stretch(kind="linear", low=(0.0, 1.0, 2.0), high=(240.0,) * 3, stains=stains)
        assert Stretch.from_json(json.loads(json.dumps(stretch.to_json()))) == stretch
    assert "stains" not in Stretch(kind="none", low=(0.0,) * 3, high=(255.0,) * 3).to_json()


def test_stains_come_before_the_stretch_and_invalid_pixels_stay_black():
    image = composed(amounts(SHAPE), OTHER)
    norm = fitted(image)
    valid = np.random.default_rng(1).random(SHAPE) > 0.2
    plain = Stretch(kind="linear", low=(40.0,) * 3, high=(230.0,) * 3)

    shown = apply_stretch(Stretch(kind="linear", low=plain.low, high=plain.high, stains=norm), Pixels(data=image, valid=valid))

    assert np.array_equal(shown, apply_stretch(plain, Pixels(data=apply_stains(norm, image), valid=valid)))
    assert not shown[~valid].any()
    none = Stretch(kind="none", low=(0.0,) * 3, high=(255.0,) * 3, stains=norm)
    again = apply_stretch(none, Pixels(data=image, valid=valid))
    assert np.array_equal(again, np.where(valid[..., None], apply_stains(norm, image), 0))


@pytest.mark.parametrize("wrong", [{"kind": "reinhard"}, {"kind": "macenko"}, {"kind": "none", "own": USUAL, "target": USUAL}])
def test_a_normalisation_is_whole_or_none(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match="stain normalisation"):
        StainNorm(**wrong)
