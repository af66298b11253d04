"""The work grid of an image: its own pixels, or pixels of another GSD from the same corner."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt

from affine import Affine
from rasterio.errors import CRSError
from rasterio.io import DatasetReader

from seggeo.config import Reading
from seggeo.errors import ConfigError, GeometryError, SourceError
from seggeo.geometry import Frame, Window
from seggeo.io.ground import PixelSize, pixel_size

_SAME = 1e-6


def file_frame(ds: DatasetReader) -> Frame:
    """The frame of an open image at full resolution.

    An image without a transform is in pixel coordinates, whatever CRS it names: its place would be wrong.
    """
    crs = None if ds.transform.is_identity else _wkt(ds)
    transform = Affine(*tuple(ds.transform)[:6])
    size = pixel_size(transform, crs, ds.height, ds.width)
    return Frame(
        height=ds.height, width=ds.width, transform=transform, crs=crs, spacing=_spacing(size, (1.0, 1.0)), unit=size.unit
    )  # fmt: skip


def with_mpp(frame: Frame, reading: Reading, *, name: str) -> Frame:
    """`frame` in micrometres where the user knows the resolution of an image that has no place on the ground.

    Raises:
        ConfigError: Micrometres for an image that has such a place, or a GSD beside them.
        SourceError: A work grid in micrometres of an image whose resolution nobody knows.
    """
    mpp, asked = reading.mpp, _micrometres(reading)
    if not asked:
        return frame
    if frame.crs is not None:
        raise ConfigError(
            what=f"{asked} for {name}, which lies on the ground",
            why="its CRS says how large its pixels are, and maps are measured in metres",
            mend="leave it out; --gsd chooses the metres per pixel to work at",
        )
    if mpp is None:
        raise unknown_mpp(name, f"a work grid of {reading.work_mpp:g} um per pixel cannot be laid over it")
    if reading.gsd is not None:
        raise ConfigError(
            what=f"{asked} and a GSD of {reading.gsd:g} m for {name}",
            why="both say how large pixels are",
            mend="leave --gsd out; --work-mpp chooses the micrometres per pixel to work at",
        )
    return replace(frame, spacing=(1.0, mpp, mpp), unit="um")


def unknown_mpp(name: str, why: str) -> SourceError:
    """The refusal of an image whose resolution is needed and not known."""
    return SourceError(
        what=f"{name} does not say how large its pixels are",
        why=why,
        mend="look it up at the scanner and add --mpp, for example --mpp 0.25",
    )


def _micrometres(reading: Reading) -> str:
    """The options of microscopy that were given, in words."""
    given = {"--mpp": reading.mpp, "--work-mpp": reading.work_mpp}
    return " and ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)


def gsd_step(frame: Frame, reading: Reading, *, name: str) -> tuple[float, float]:
    """Full-resolution rows and columns in one pixel of the work grid that the settings ask for.

    Raises:
        ConfigError: A GSD for an image without georeference, or so fine that the work grid passes the pixel limit.
    """
    if frame.unit == "um" and reading.work_mpp is not None:
        rows, cols = reading.work_mpp / frame.spacing[1], reading.work_mpp / frame.spacing[2]
        return (1.0, 1.0) if abs(rows - 1) < _SAME and abs(cols - 1) < _SAME else (rows, cols)
    if reading.gsd is None:
        return 1.0, 1.0
    if frame.crs is None and frame.transform.is_identity:
        raise ConfigError(
            what=f"a GSD of {reading.gsd} m cannot be made from {name}",
            why="it has no georeference, so the size of its pixels is unknown",
            mend="leave --gsd out, or give the image one: gdal_edit -a_srs ... -a_ullr ...",
        )
    size = pixel_size(frame.transform, frame.crs, frame.height, frame.width)
    rows, cols = reading.gsd / size.row, reading.gsd / size.col
    if abs(rows - 1) < _SAME and abs(cols - 1) < _SAME:
        return 1.0, 1.0
    if rows > frame.height and cols > frame.width:
        raise ConfigError(
            what=f"a GSD of {reading.gsd} m makes one pixel of {name}",
            why=f"the whole image is {frame.height * size.row:.6g} x {frame.width * size.col:.6g} m",
            mend=f"its own GSD is {size.row:.6g} m: use --gsd near that",
        )
    if (frame.height / rows) * (frame.width / cols) > reading.max_pixels:
        raise ConfigError(
            what=f"a GSD of {reading.gsd} m makes {frame.height / rows:.0f} x {frame.width / cols:.0f} pixels of {name}",
            why=f"the limit is {reading.max_pixels}",
            mend=f"its own GSD is {size.row:.6g} m: use --gsd near that",
        )
    return rows, cols


def check_inside(window: Window, z: int, frame: Frame, what: str) -> None:
    """Refuse a window that does not lie in an image.

    Raises:
        GeometryError: It lies in another slice, or not wholly in `frame`.
    """
    if not 0 <= z < frame.depth or not frame.window.contains(window):
        slices = "one slice" if frame.depth == 1 else f"{frame.depth} slices"
        raise GeometryError(
            what=f"slice {z}, {window} is outside the {what}",
            why=f"it is {slices} of {frame.height} x {frame.width} pixels",
            mend="take windows from a TileGrid of its frame",
        )


def reduced(frame: Frame, max_side: int) -> tuple[Frame, float]:
    """`frame` made smaller by the least whole factor with which no side exceeds `max_side` pixels, and that factor."""
    factor = float(ceil(max(frame.height, frame.width) / max_side))
    return scaled(frame, (factor, factor)), factor


def scaled(frame: Frame, step: tuple[float, float], *, level: int = 0) -> Frame:
    """`frame` with pixels `step` times as tall and wide, from the same corner; the last ones may reach past the image."""
    if step == (1.0, 1.0):
        return frame
    (row, col), t = step, frame.transform
    spacing = frame.spacing if frame.unit == "px" else (frame.spacing[0], frame.spacing[1] * row, frame.spacing[2] * col)
    return Frame(
        height=max(1, ceil(frame.height / row - _SAME)),
        width=max(1, ceil(frame.width / col - _SAME)),
        transform=Affine(t.a * col, t.b * row, t.c, t.d * col, t.e * row, t.f),
        crs=frame.crs,
        spacing=spacing,
        unit=frame.unit,
        level=level,
        scale=frame.scale * sqrt(row * col),
    )


def _spacing(size: PixelSize, step: tuple[float, float]) -> tuple[float, float, float]:
    return (1.0, 1.0, 1.0) if size.unit == "px" else (1.0, size.row * step[0], size.col * step[1])


def _wkt(ds: DatasetReader) -> str | None:
    try:
        return str(ds.crs.to_wkt()) if ds.crs else None
    except CRSError:
        return None
