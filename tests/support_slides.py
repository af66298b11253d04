"""Small slides for tests: an Aperio-like SVS, a Leica SCN with bounds, an OME-TIFF with SubIFDs, an OME-Zarr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io.slide import SlideSource, open_slide

SVS = Path(__file__).parents[2] / "shared" / "data" / "wsi" / "CMU-1-Small-Region.svs"
needs_svs = pytest.mark.skipif(not SVS.exists(), reason="the shared data set is not beside the repository")


def tissue(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """Smooth stained blobs on a bright ground, `(h, w, 3)`; JPEG keeps them well."""
    rng = np.random.default_rng(seed)
    small = rng.random((height // 16 + 2, width // 16 + 2, 3))
    rows, cols = np.linspace(0, small.shape[0] - 2, height), np.linspace(0, small.shape[1] - 2, width)
    r, c = rows.astype(int), cols.astype(int)
    fr, fc = (rows - r)[:, None, None], (cols - c)[None, :, None]
    top = small[r][:, c] * (1 - fc) + small[r][:, c + 1] * fc
    below = small[r + 1][:, c] * (1 - fc) + small[r + 1][:, c + 1] * fc
    return np.ascontiguousarray(np.rint(90 + 160 * (top * (1 - fr) + below * fr)), np.uint8)


def halved(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means of whole squares of `factor` pixels; what is left over at the lower and right edge is dropped."""
    rows, cols = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: rows * factor, : cols * factor].astype(np.float64)
    means = cut.reshape(rows, factor, cols, factor, *image.shape[2:]).mean(axis=(1, 3))
    return np.rint(means).astype(image.dtype)


def tiles(image: NDArray[Any], side: int) -> Iterator[NDArray[Any]]:
    """Full tiles in TIFF order, the last ones padded with their edge."""
    rows, cols = -(-image.shape[0] // side) * side, -(-image.shape[1] // side) * side
    spare = [(0, rows - image.shape[0]), (0, cols - image.shape[1]), *[(0, 0)] * (image.ndim - 2)]
    padded = np.pad(image, spare, mode="edge")
    for row in range(0, rows, side):
        for col in range(0, cols, side):
            yield padded[row : row + side, col : col + side]


def jpegs(image: NDArray[np.uint8], side: int, *, lost: Sequence[int] = (), **options: Any) -> Iterator[bytes]:
    """Encoded tiles of an RGB image; those whose number is in `lost` are empty."""
    settings = {"level": 90, "colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": "422"} | options
    for i, tile in enumerate(tiles(image, side)):
        yield b"" if i in lost else imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), **settings)


def write_svs(
    path: Path,
    image: NDArray[np.uint8],
    *,
    mpp: float | None = 0.25,
    factors: Sequence[int] = (4, 16),
    lost: Sequence[int] = (),
) -> Path:
    """An Aperio-like slide: JPEG tiles of 256 px in YCbCr, a strip thumbnail after the first level, then the others."""
    said = "" if mpp is None else f"|MPP = {mpp}"
    text = f"Aperio Image Library v11\r\n{image.shape[1]}x{image.shape[0]} (256x256) JPEG Q=90{said}|AppMag = 40"
    layout: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=False) as out:
        for i, factor in enumerate((1, *factors)):
            level = image if factor == 1 else halved(image, factor)
            out.write(
                jpegs(level, 256, lost=lost if i == 0 else ()), shape=level.shape, dtype=np.uint8, tile=(256, 256),
                description=text, **layout,
            )  # fmt: skip
            if i == 0:
                thumb = halved(image, max(2, max(image.shape) // 128))
                out.write(thumb, photometric="rgb", compression="jpeg", description=text, metadata=None, rowsperstrip=16)
    return path


def write_ome(path: Path, planes: NDArray[Any], *, names: Sequence[str], mpp: float | None = 0.5, unit: str = "µm") -> Path:
    """An OME-TIFF of `(c, h, w)`: deflated tiles, two smaller levels in SubIFDs, named channels."""
    metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": list(names)}}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": unit, "PhysicalSizeY": mpp, "PhysicalSizeYUnit": unit}
    options: dict[str, Any] = {"tile": (128, 128), "compression": "zlib", "predictor": True, "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(planes, subifds=2, metadata=metadata, **options)
        for factor in (2, 4):
            out.write(np.stack([halved(p, factor) for p in planes]), subfiletype=1, **options)
    return path


def write_zarr(path: Path, planes: NDArray[Any], *, mpp: float = 0.5, version: str = "0.4", names: Sequence[str] = ()) -> Path:
    """An OME-Zarr of `(c, h, w)` with three levels."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, factor in enumerate((1, 2, 4)):
        data = planes if factor == 1 else np.stack([halved(p, factor) for p in planes])
        group.create_array(str(i), data=data, chunks=(1, 100, 128))
        scale = {"type": "scale", "scale": [1.0, mpp * factor, mpp * factor]}
        datasets.append({"path": str(i), "coordinateTransformations": [scale]})
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    image = {"version": version, "axes": axes, "datasets": datasets}
    omero = {"channels": [{"label": name} for name in names]}
    attributes = {"multiscales": [image], "omero": omero}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return path


def write_scn(
    path: Path, images: Sequence[tuple[NDArray[np.uint8], tuple[int, int]]], *, canvas: tuple[int, int], mpp: float
) -> Path:
    """A Leica SCN of images at `(row, column)` of a larger canvas, with a level of a quarter; OpenSlide gives its bounds."""
    nm = round(mpp * 1000)
    pages = [(np.full((64, 32, 3), 200, np.uint8), 50.0)]
    parts = []
    for image, corner in images:
        parts.append(_scn_image(image.shape[:2], corner, nm, first=len(pages)))
        pages += [(image, 1.0), (halved(image, 4), 4.0)]
    layout: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for i, (level, factor) in enumerate(pages):
            per_cm = 1e7 / (nm * factor)
            out.write(
                jpegs(level, 256), shape=level.shape, dtype=np.uint8, tile=(256, 256), resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER", description=_scn_text(canvas, nm, parts) if i == 0 else None, **layout,
            )  # fmt: skip
    return path


def _scn_text(canvas: tuple[int, int], nm: int, parts: Sequence[str]) -> str:
    whole = f'sizeX="{canvas[1] * nm}" sizeY="{canvas[0] * nm}"'
    pixels = '<pixels sizeX="32" sizeY="64"><dimension sizeX="32" sizeY="64" r="0" ifd="0"/></pixels>'
    macro = _scn_part(pixels, f'<view {whole} offsetX="0" offsetY="0" spacingZ="0"/>', "0.6")
    space = 'xmlns="http://www.leica-microsystems.com/scn/2010/10/01"'
    inside = f'<collection name="c" {whole}><barcode>eA==</barcode>{macro}{"".join(parts)}</collection>'
    return f'<?xml version="1.0"?><scn {space}>{inside}</scn>'


def _scn_image(shape: tuple[int, ...], corner: tuple[int, int], nm: int, *, first: int) -> str:
    height, width = shape
    sizes = [(height, width), (height // 4, width // 4)]
    rows = [f'<dimension sizeX="{w}" sizeY="{h}" r="{i}" ifd="{first + i}"/>' for i, (h, w) in enumerate(sizes)]
    place = f'sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{corner[1] * nm}" offsetY="{corner[0] * nm}"'
    pixels = f'<pixels sizeX="{width}" sizeY="{height}">{"".join(rows)}</pixels>'
    return _scn_part(pixels, f'<view {place} spacingZ="0"/>', "20")


def _scn_part(pixels: str, view: str, objective: str) -> str:
    light = f"<objectiveSettings><objective>{objective}</objective></objectiveSettings>"
    light += "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
    device = '<creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/>'
    return f"<image>{device}{pixels}{view}<scanSettings>{light}</scanSettings></image>"


def open_native(path: Path | str, **options: Any) -> SlideSource:
    return open_slide(str(path), Reading(), native=True, **options)


def windows(source: SlideSource, side: int, step: int) -> list[Window]:
    """Squares of `side` px, one every `step` px, cut at the image."""
    whole = source.frame.window
    starts = [(row, col) for row in range(0, whole.height, step) for col in range(0, whole.width, step)]
    return [
        Window.from_bounds(row, col, min(row + side, whole.height), min(col + side, whole.width)) for row, col in starts
    ]  # fmt: skip
