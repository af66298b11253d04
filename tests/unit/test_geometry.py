"""Windows are boxes of pixels; frames lead to the world and back."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from seggeo.errors import GeometryError
from seggeo.geometry import Frame, Window

law = settings(deadline=None, derandomize=True)
sides = st.integers(1, 60)
offsets = st.integers(0, 60)
windows = st.builds(Window, row=offsets, col=offsets, height=sides, width=sides)


def turned(x, y, angle, wide, tall):
    """A transform from its origin, angle in degrees and pixel sides."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return Affine(cos * wide, -sin * tall, x, sin * wide, cos * tall, y)


TRANSFORMS = {
    "north-up": Affine(0.3, 0, 400_000, 0, -0.3, 5_200_000),
    "south-up": Affine(0.3, 0, 400_000, 0, 0.3, 5_200_000),
    "rotated": turned(691_000.25, 5_334_000.75, 30, 0.25, -0.25),
    "sheared": Affine(3, -0.42, -10, -0.37, -2, 7),
    "web mercator": Affine(0.0746, 0, 20_037_000.123, 0, -0.0746, -20_036_999.9),
    "degrees": Affine(2.5e-6, 0, 179.9999, 0, -2.5e-6, -89.5),
    "huge eastings": Affine(0.01, 0, 1e9 + 0.123, 0, -0.01, -1e9),
}


def painted(window, size=128):
    canvas = np.zeros((size, size), bool)
    canvas[window.slices()] = True
    return canvas


@law
@given(windows, windows)
def test_intersection_holds_the_pixels_of_both(a, b):
    shared = a.intersect(b)

    assert np.array_equal(painted(a) & painted(b), painted(shared) if shared else np.zeros((128, 128), bool))
    assert b.intersect(a) == shared
    assert a.contains(b) == (shared == b) == bool((painted(a) >= painted(b)).all())


@law
@given(windows, st.integers(0, 40))
def test_growing_adds_the_margin_on_every_side_but_never_leaves_the_frame(window, margin):
    frame = Window(row=0, col=0, height=120, width=120)
    grown = window.intersect(frame).grow(margin, within=frame)
    rows, cols = np.nonzero(painted(window.intersect(frame)))
    near = np.zeros((120, 120), bool)
    near[max(0, rows.min() - margin) : rows.max() + margin + 1, max(0, cols.min() - margin) : cols.max() + margin + 1] = True

    assert np.array_equal(painted(grown)[:120, :120], near)
    assert frame.contains(grown)


@law
@given(windows, st.integers(0, 9), st.integers(0, 9))
def test_bounds_shape_area_and_shift_agree_with_slices(window, rows, cols):
    moved = window.shift(rows, cols)

    assert painted(window).sum() == window.area == window.height * window.width
    assert Window.from_bounds(*window.bounds) == window
    assert painted(moved)[window.shift(rows, cols).slices()].shape == window.shape
    assert np.arange(128)[moved.slices(window)[0]].tolist() == list(range(rows, rows + window.height))


@pytest.mark.parametrize("wrong", [{"row": -1}, {"col": -1}, {"height": 0}, {"width": 0}, {"width": -3}])
def test_a_window_that_is_no_box_of_pixels_is_refused(wrong):
    with pytest.raises(GeometryError, match="is not a box of pixels"):
        Window(**{"row": 0, "col": 0, "height": 4, "width": 4, **wrong})


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixel_to_world_to_pixel_comes_back_within_a_millionth_of_a_pixel(name):
    frame = Frame(height=200_000, width=300_000, transform=TRANSFORMS[name])
    rng = np.random.default_rng(1)
    rows, cols = rng.uniform(0, frame.height, 10_000), rng.uniform(0, frame.width, 10_000)
    back_rows, back_cols = frame.world_to_pixel(*frame.pixel_to_world(rows, cols))
    # One step of a double at 1e9 m is 1.2e-7 m, that is 1.2e-5 of a pixel of 1 cm: no arithmetic can do better.
    limit = 3e-5 if name == "huge eastings" else 1e-6

    assert max(abs(back_rows - rows).max(), abs(back_cols - cols).max()) < limit


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixel_to_world_is_what_affine_says(name):
    frame = Frame(height=50, width=70, transform=TRANSFORMS[name])
    rows, cols = np.mgrid[0:51:10, 0:71:10]
    xs, ys = frame.pixel_to_world(rows, cols)
    matrix = np.array(frame.transform).reshape(3, 3)
    expected = matrix @ np.stack([cols.ravel(), rows.ravel(), np.ones(rows.size)])

    assert np.allclose([xs.ravel(), ys.ravel()], expected[:2], rtol=1e-15, atol=1e-9)
    assert frame.determinant == pytest.approx(np.linalg.det(matrix), rel=1e-9)
    assert frame.determinant == pytest.approx(frame.transform.determinant, rel=1e-12)


@law
@given(st.floats(0, 360), st.floats(0.01, 100), st.floats(0.01, 100), st.booleans(), st.floats(-1e7, 1e7), st.floats(-1e7, 1e7))
def test_every_usable_transform_comes_back(angle, wide, tall, south_up, x, y):
    transform = turned(x, y, angle, wide, tall if south_up else -tall)
    frame = Frame(height=1000, width=1000, transform=transform)
    rows, cols = np.array([0.0, 1000.0, 17.5]), np.array([0.0, 1000.0, 998.25])
    back = frame.world_to_pixel(*frame.pixel_to_world(rows, cols))

    assert np.allclose(back, (rows, cols), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_frame_survives_json(name):
    frame = Frame(
        height=5, width=6, depth=7, transform=TRANSFORMS[name], crs="LOCAL", spacing=(2.0, 0.3, 0.3), unit="m",
        level=2, scale=4.0,
    )  # fmt: skip

    assert Frame.from_json(frame.to_json()) == frame


def test_a_transform_of_the_wrong_length_is_refused():
    values = Frame(height=5, width=6).to_json()
    with pytest.raises(GeometryError, match="5 numbers where 6"):
        Frame.from_json({**values, "transform": values["transform"][:5]})


@pytest.mark.parametrize(
    "transform", [Affine(0, 0, 1, 0, -1, 1), Affine(1, 2, 0, 2, 4, 0), Affine(float("nan"), 0, 0, 0, 1, 0)]
)
def test_a_transform_without_a_way_back_is_refused(transform):
    with pytest.raises(GeometryError, match="cannot be inverted"):
        Frame(height=5, width=6, transform=transform)


def test_a_frame_without_pixels_is_refused():
    with pytest.raises(GeometryError, match="holds no pixels"):
        Frame(height=0, width=6)
