"""CZI slides, read as Zeiss's own library reads them: mosaics, scenes, channels, pyramids, compression; damage is refused."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from support_czi import Piece, change_entry, read_with_zeiss, replace_pixels, write_czi
from support_slides import halved, open_native, tissue, windows

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Window
from seggeo.io.slide import is_slide, open_slide
from seggeo.io.slide_czi_file import CziFile

RNG = np.random.default_rng(3)
COLOUR = tissue(620, 700)
PLANES = RNG.integers(0, 4000, (2, 300, 410)).astype(np.uint16)
PACKED = "zstd1:ExplicitLevel=1;PreProcess=HiLoByteUnpack"


def whole(path: Path) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    with open_native(path) as source:
        pixels = source.read(source.frame.window)
    return pixels.data, pixels.valid


def mosaic(path: Path, how: str = "uncompressed:") -> Path:
    """Four overlapping fields that begin at negative coordinates, and one alone to the right."""
    places = [(0, 0), (0, 300), (280, 0), (260, 310), (90, 900)]
    pieces = [Piece(image=np.roll(COLOUR, 40 * i, axis=1)[:340, :390], row=r - 55, col=c - 1000)
              for i, (r, c) in enumerate(places)]  # fmt: skip
    return write_czi(path, pieces, how=how)


@pytest.mark.parametrize("how", ["uncompressed:", "zstd0:ExplicitLevel=1", PACKED])
def test_a_mosaic_is_put_together_as_by_zeiss(tmp_path: Path, how: str):
    path = mosaic(tmp_path / "a.czi", how)
    wanted = read_with_zeiss(path)

    with open_native(path) as source:
        assert is_slide(str(path))
        assert source.frame.spacing == (1.0, 0.25, 0.25)
        assert source.bands == ("red", "green", "blue")
        assert source.is_brightfield
        assert source.frame.window.shape == wanted.shape[:2] == (620, 1290)
        for window in windows(source, 333, 250):
            pixels = source.read(window)
            np.testing.assert_array_equal(pixels.data, np.where(pixels.valid[..., None], wanted[window.slices()], 0))
        assert not source.read(Window(row=500, col=950, height=20, width=20)).valid.any()
        assert source.read(Window(row=0, col=0, height=340, width=390)).valid.all()
        assert source.is_empty(Window(row=520, col=1030, height=90, width=200))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("how", ["uncompressed:", "zstd0:ExplicitLevel=1", PACKED])
def test_channels_have_their_names_and_values(tmp_path: Path, dtype: type, how: str):
    planes = PLANES.astype(dtype)
    pieces = [Piece(image=plane, plane={"C": i}) for i, plane in enumerate(planes)]
    path = write_czi(tmp_path / "a.czi", pieces, names=("DAPI", "CD3"), how=how)

    with open_native(path, channels=("CD3", 1)) as source:
        pixels = source.read(source.frame.window)
        assert source.bands == ("CD3", "DAPI")
        assert pixels.data.dtype == dtype
        np.testing.assert_array_equal(pixels.data, planes[::-1].transpose(1, 2, 0))
        np.testing.assert_array_equal(pixels.data[..., :1], read_with_zeiss(path, {"C": 1}))
    with open_slide(str(path), Reading(), native=False) as source:
        assert source.bands == ("DAPI",) * 3


@pytest.mark.parametrize("how", ["uncompressed:", "zstd0:ExplicitLevel=1", PACKED])
def test_colours_of_16_bits_keep_their_order(tmp_path: Path, how: str):
    """Against the original: Zeiss's reader of 2026 does not put low and high bytes of these together again."""
    image = COLOUR[:200, :150].astype(np.uint16) * 257

    data, valid = whole(write_czi(tmp_path / "a.czi", [Piece(image=image)], how=how))

    assert valid.all()
    np.testing.assert_array_equal(data, image)


@pytest.mark.parametrize("is_colour", [True, False])
def test_jpeg_xr_shows_what_zeiss_shows(tmp_path: Path, is_colour: bool):
    image = COLOUR if is_colour else COLOUR[..., 0]
    path = write_czi(tmp_path / "a.czi", [Piece(image=image)])
    data = bytearray(path.read_bytes())
    encoded = bytearray(imagecodecs.jpegxr_encode(np.ascontiguousarray(image), level=0.9))
    if is_colour:  # ZEN names the order of memory blue, green, red; what is encoded is the same
        encoded[encoded.index(bytes.fromhex("24c3dd6f034efe4bb1853d77768dc9")) + 15] = 0x0C
    replace_pixels(data, 0, bytes(encoded))
    change_entry(data, 0, compression=4)
    path.write_bytes(data)

    found, _ = whole(path)

    np.testing.assert_array_equal(found, read_with_zeiss(path))
    assert np.abs(found.squeeze().astype(int) - image).max() < 25


def with_pyramid(path: Path, factor: int = 4) -> Path:
    """A mosaic of two fields and, stored smaller, both together."""
    full = COLOUR[:600, :640]
    small = halved(full, factor)
    write_czi(path, [Piece(image=full[:, :320]), Piece(image=full[:, 320:], col=320), Piece(image=small, row=900)])
    data = bytearray(path.read_bytes())
    change_entry(data, 2, pyramid=2, place={"Y": (0, 600, 600 // factor), "X": (0, 640, 640 // factor)})
    path.write_bytes(data)
    return path


def test_smaller_subblocks_are_levels(tmp_path: Path):
    path = with_pyramid(tmp_path / "a.czi")

    with open_native(path, work_mpp=1.0) as source:
        assert [level["height"] for level in source.describe()["levels"]] == [600, 150]
        assert source.frame.level == 1
        np.testing.assert_array_equal(source.read(source.frame.window).data, halved(COLOUR[:600, :640], 4))
    np.testing.assert_array_equal(whole(path)[0], COLOUR[:600, :640])


def test_a_level_that_lacks_part_of_the_image_is_left_out(tmp_path: Path):
    path = with_pyramid(tmp_path / "a.czi")
    data = bytearray(path.read_bytes())
    change_entry(data, 1, place={"X": (2000, 320, 320)})
    path.write_bytes(data)

    with open_native(path) as source:
        assert [level["width"] for level in source.describe()["levels"]] == [2320]


def test_scenes_apart_are_one_slide_with_gaps_and_others_are_refused(tmp_path: Path):
    left, right = COLOUR[:200, :300], COLOUR[200:500, 100:300]
    path = write_czi(tmp_path / "a.czi", [Piece(image=left), Piece(image=right, col=1500, row=30, scene=1)])

    data, valid = whole(path)

    assert data.shape == (330, 1700, 3)
    np.testing.assert_array_equal(data[:200, :300], left)
    np.testing.assert_array_equal(data[30:, 1500:], right)
    assert valid.sum() == 200 * 300 + 300 * 200
    write_czi(path, [Piece(image=left), Piece(image=right, col=150, scene=1)])
    with pytest.raises(SourceError, match="2 scenes, of which 1 and 2 overlap"):
        open_native(path)


@pytest.mark.parametrize(("axis", "why"), [("Z", "2 z-slices"), ("T", "2 time points")])
def test_what_is_not_one_plane_is_refused(tmp_path: Path, axis: str, why: str):
    pieces = [Piece(image=PLANES[0], plane={axis: i}) for i in range(2)]
    with pytest.raises(SourceError, match=why):
        open_native(write_czi(tmp_path / "a.czi", pieces))


@pytest.mark.parametrize(("number", "name"), [(1, "JPEG"), (2, "LZW"), (99, "method 99")])
def test_what_nothing_decodes_is_refused_by_name(tmp_path: Path, number: int, name: str):
    path = write_czi(tmp_path / "a.czi", [Piece(image=PLANES[0])])
    data = bytearray(path.read_bytes())
    change_entry(data, 0, compression=number)
    path.write_bytes(data)

    with open_native(path) as source, pytest.raises(SourceError, match=f"compressed by {name}"):
        source.read(source.frame.window)


def test_without_scale_or_names_nothing_is_guessed(tmp_path: Path):
    with open_native(write_czi(tmp_path / "a.czi", [Piece(image=PLANES[0])], mpp=None)) as source:
        assert source.mpp is None
        assert source.frame.unit == "px"
        assert len(source.bands) == 1


def test_windows_cost_what_their_subblocks_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = mosaic(tmp_path / "a.czi")
    decoded: list[int] = []
    decode = CziFile.decode
    monkeypatch.setattr(CziFile, "decode", lambda self, block: (decoded.append(block.col), decode(self, block))[1])

    with open_native(path) as source:
        source.read(Window(row=100, col=1100, height=50, width=50))
        source.read(Window(row=200, col=1200, height=50, width=50))

    assert decoded == [-100], "one field, once"


def test_damage_is_refused_and_never_a_crash(tmp_path: Path):
    good = mosaic(tmp_path / "a.czi", PACKED).read_bytes()
    path = tmp_path / "b.czi"
    rng = np.random.default_rng(5)
    refused: list[str] = []
    for i in range(120):
        data = bytearray(good)
        if i % 3 == 0:
            del data[int(rng.integers(16, len(data))) :]
        else:  # where the structure is: at the front, and in the directory
            for place in rng.integers(16, 1100, 6) if i % 3 == 1 else rng.integers(len(data) - 3000, len(data), 12):
                data[place] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            with open_native(path) as source:
                source.read(source.frame.window.intersect(Window(row=0, col=0, height=700, width=1300)))
        except SourceError as error:
            refused.append(error.what)
    assert len(refused) > 40
    assert all("b.czi" in what for what in refused)
