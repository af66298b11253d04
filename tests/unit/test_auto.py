"""What `--model auto` takes: real images of every shared kind, and pictures made to be one."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from support_look import look_at

from seggeo.config import Reading
from seggeo.geometry import Frame
from seggeo.io import apply_stretch, fit_stretch, open_raster
from seggeo.models.auto import BUNDLED_FOR, FALLBACK, choose, kind_of
from seggeo.protocols import Pixels

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
ALL = ("nuclei", "overhead")
EMPTY = ("L01_s2", "L10_s6")
"""Fields of BBBC039 without a nucleus."""
KINDS = {"fluorescence": "fluorescence", "histology_colour": "H&E", "brightfield_gray_tissue": "unknown"}


def kind_of_file(path: str | Path) -> str:
    with open_raster(str(path), Reading(), native=False) as source:
        overview = source.overview(2048)
        image = apply_stretch(fit_stretch(overview, "auto"), overview)
        return kind_of(look_at(image, overview.valid, frame=source.frame, bands=source.bands), overview)[0]


def dsb(kind: str, every: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Names and RGB of one kind of the shared DSB 2018 images."""
    path = SHARED / "nuclei" / "dsb2018_train.zip"
    if not path.exists():
        pytest.skip("shared/data/nuclei is not here")
    with zipfile.ZipFile(path) as archive:
        files = {Path(name).stem: name for name in archive.namelist() if "images/" in name and name.endswith(".png")}
        index = next(name for name in archive.namelist() if name.endswith("index.csv"))
        rows = csv.DictReader(io.TextIOWrapper(archive.open(index)))
        names = [row["name"] for row in rows if row["kind"] == kind][::every]
        return [(name, np.asarray(Image.open(archive.open(files[name])).convert("RGB"))) for name in names]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_shared_nuclei_are_told_by_kind(kind: str, every: int):
    images = dsb(kind, every)

    found = Counter(kind_of(look_at(image))[0] for _, image in images)

    assert found[KINDS[kind]] >= 0.97 * len(images) > 0, found


def test_shared_16_bit_fields_are_fluorescence(tmp_path: Path):
    path = SHARED / "nuclei" / "bbbc039_train.zip"
    if not path.exists():
        pytest.skip("shared/data/nuclei is not here")
    found = Counter()
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if "images/" in n and n.endswith((".png", ".tif"))]
        empty = [n for n in names if Path(n).stem in EMPTY]
        assert len(empty) == len(EMPTY)
        for name in names[::15] + empty:
            target = tmp_path / Path(name).name
            target.write_bytes(archive.read(name))
            found[kind_of_file(target)] += 1

    assert found["fluorescence"] == found.total() > 0


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("nuclei/nucls_he/images/*.png", "H&E"), ("nuclei/he_silver/*mpp.png", "H&E"),
        ("overhead/banepa/*.tif", "overhead"), ("overhead/kampala/*.tif", "overhead"),
        ("overhead/landsat/*.tif", "unknown"), ("overhead/neon_trees/*.png", "unknown"),
        ("overhead/spacenet_shanghai/*945.png", "unknown"),
    ],
)  # fmt: skip
def test_other_shared_images_are_told_by_kind(pattern: str, kind: str):
    paths = sorted(SHARED.glob(pattern))
    if not paths:
        pytest.skip("shared/data is not here")

    assert {path.name: kind_of_file(path) for path in paths} == {path.name: kind for path in paths}


def test_overhead_pictures_without_georeference_do_not_pass_for_tissue():
    path = SHARED / "overhead" / "banepa" / "banepa_north.tif"
    if not path.exists():
        pytest.skip("shared/data/overhead is not here")
    with open_raster(str(path), Reading(), native=False) as source:
        image = source.read(source.frame.window).data
    crops = [image[r : r + 512, c : c + 512] for r in range(0, 3072, 1024) for c in range(0, 3072, 1024)]

    assert {kind_of(look_at(crop))[0] for crop in crops} == {"unknown"}


def spots(ground: float, bright: float, *, tint: tuple[float, ...] = (1, 1, 1)) -> NDArray[np.uint8]:
    """Round spots over a tenth of a noisy ground."""
    rng = np.random.default_rng(2)
    field = gaussian_filter(rng.normal(size=(200, 240)), 6)
    value = np.where(field > np.percentile(field, 90), bright, ground) + rng.normal(0, 2, field.shape)
    return np.clip(value[..., None] * np.array(tint), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("tint", [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0.8, 1)])
@pytest.mark.parametrize("bright", [25, 120, 250])
def test_bright_on_dark_is_fluorescence_in_any_dye(tint: tuple[float, ...], bright: float):
    assert kind_of(look_at(spots(6, bright, tint=tint)))[0] == "fluorescence"


@pytest.mark.parametrize(
    ("ground", "bright", "tint"), [(6, 8, (1, 1, 1)), (120, 250, (1, 1, 1)), (250, 6, (1, 1, 1)), (10, 250, (1, 0.7, 0.5))]
)
def test_other_grounds_and_other_colours_are_not(ground: float, bright: float, tint: tuple[float, ...]):
    assert kind_of(look_at(spots(ground, bright, tint=tint)))[0] == "unknown"


@pytest.mark.parametrize(
    ("stain", "kind"),
    [((0.65, 0.70, 0.29), "H&E"), ((0.07, 0.99, 0.11), "H&E"), ((0.27, 0.57, 0.78), "unknown"), ((0.8, 0.5, 0.2), "unknown")],
)
@pytest.mark.parametrize("white", [(245, 245, 245), (235, 232, 205), (180, 200, 205)])
def test_stains_are_told_by_what_they_absorb_whatever_the_lamp(stain: tuple[float, ...], white: tuple[int, ...], kind: str):
    amount = gaussian_filter(np.random.default_rng(3).random((200, 200)), 5)
    amount = 1.4 * np.clip(4 * (amount - amount.mean()) / np.ptp(amount), 0, 1)
    image = np.array(white) * np.exp(-amount[..., None] * np.array(stain))

    assert kind_of(look_at(image.astype(np.uint8)))[0] == kind


def at(gsd: float, **change: Any) -> Frame:
    """A frame of 80 x 90 px of that size on the ground."""
    frame = Frame(
        height=80, width=90, transform=Affine(gsd, 0, 5e5, 0, -gsd, 5e6), crs="LOCAL", spacing=(1.0, gsd, gsd), unit="m"
    )
    return replace(frame, **change)


@pytest.mark.parametrize(
    ("frame", "bands", "kind"),
    [
        (at(0.1), ("red", "green", "blue"), "overhead"), (at(1.0), ("red", "green", "blue"), "overhead"),
        (at(1.01), ("red", "green", "blue"), "unknown"), (at(300.0), ("red", "green", "blue"), "unknown"),
        (at(0.1), ("gray", "gray", "gray"), "unknown"), (at(0.1, unit="px"), ("red", "green", "blue"), "unknown"),
    ],
)  # fmt: skip
def test_what_has_a_place_on_earth_is_judged_by_its_pixels_size(frame: Frame, bands: tuple[str, ...], kind: str):
    look = look_at(spots(6, 200)[:80, :90], frame=frame, bands=bands)

    assert kind_of(look)[0] == kind


def test_no_data_is_no_kind():
    image = spots(6, 200)

    assert kind_of(look_at(image, np.zeros(image.shape[:2], bool)))[0] == "unknown"
    assert kind_of(look_at(np.zeros_like(image)))[0] == "unknown"


GRAY = ("gray",) * 3


def field(ground: float = 150, noise: float = 6, dtype: str = "uint16", smooth: float = 0, discs: int = 0) -> Pixels:
    """Noise around a level, and bright discs of 400 px each on it."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, (500, 600))
    if smooth:
        values = gaussian_filter(values, smooth)
    values = ground + noise * values / values.std()
    rows, cols = np.mgrid[:500, :600]
    for row, col in rng.uniform(20, 480, (discs, 2)):
        values[(rows - row) ** 2 + (cols - col) ** 2 <= 127] += 600
    return Pixels(data=np.repeat(values[..., None], 3, axis=2).astype(dtype), valid=np.ones(values.shape, bool))


def kind_of_field(raw: Pixels, **more: Any) -> str:
    shown = apply_stretch(fit_stretch(raw, "percent:2,98"), raw)
    return kind_of(look_at(shown, raw.valid, **{"bands": GRAY, **more}), raw)[0]


@pytest.mark.parametrize("discs", [0, 1, 4, 8, 12, 16, 20, 60, 150])
def test_16_bit_fields_with_few_objects_or_none_are_fluorescence(discs: int):
    assert kind_of_field(field(discs=discs)) == "fluorescence"


@pytest.mark.parametrize(
    "raw",
    [
        field(1500), field(150, 60), field(150, 6, smooth=4), field(150, 6, "int16"), field(150, 6, "float32"),
        field(150, 0), field(30000, 2000),
    ],
    ids=["light", "wide", "terrain", "signed", "float", "flat", "bright"],
)  # fmt: skip
def test_other_16_bit_pictures_are_no_empty_fields(raw: Pixels):
    assert kind_of_field(raw) == "unknown"


def test_colours_and_places_on_earth_are_no_empty_fields():
    assert kind_of_field(field(), bands=("red", "green", "blue")) == "unknown"
    assert kind_of_field(field(), frame=at(300.0, height=500, width=600)) == "unknown"


def test_a_kind_gets_its_weights_or_says_that_they_are_missing():
    look = look_at(spots(6, 200))

    there, missing, other = choose(look, ALL), choose(look, ("overhead",)), choose(look_at(spots(120, 200)), ALL)

    assert (there.model, there.kind) == ("nuclei", "fluorescence")
    assert (missing.model, missing.kind) == (FALLBACK, "fluorescence")
    assert missing.why.startswith(there.why)
    assert "'nuclei' are not in this installation" in missing.why
    assert (other.model, other.kind) == (FALLBACK, "unknown")
    assert {"\n" in c.why for c in (there, missing, other)} == {False}
    assert set(BUNDLED_FOR.values()) == set(ALL)
