"""Which bands of a file are read, and what says that a pixel is real data.

1. `choose_bands` picks bands by the user's list, else by colour interpretation; never by guess.
2. The mask follows GDAL's own precedence: mask band or alpha of the whole file, else the nodata value of each band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from seggeo.config import Reading
from seggeo.errors import ConfigError
from seggeo.io.opening import alpha_band, numpy_name


@dataclass(frozen=True, slots=True, kw_only=True)
class BandPlan:
    """What to decode and how it becomes the bands that are handed out."""

    read: tuple[int, ...]
    """1-based file bands that are decoded, each once."""
    order: tuple[int, ...]
    """Index into the decoded (or palette-expanded) bands, one per band handed out."""
    names: tuple[str, ...]
    dtype: str
    mask: str
    """none, nodata, alpha or mask (a mask band or .msk file)."""
    alpha: int | None
    """The file's alpha band when it is the mask."""
    nodata: tuple[float | None, ...]
    """Value that means no data for each band of `read`."""
    real: str | None = None
    """What of complex numbers is kept: abs or real; None: they are none."""
    palette: NDArray[np.uint8] | None
    """`(values, 4)` colour table, red green blue alpha, or None."""


def choose_bands(ds: DatasetReader, reading: Reading, *, native: bool, name: str) -> BandPlan:
    """The bands a model gets: three for RGB models, all but alpha (or the asked ones) when `native`.

    Raises:
        ConfigError: A band that does not exist, a channel as slides have them, or no rule says which three to take.
    """
    palette = _palette(ds)
    labels = ("red", "green", "blue") if palette is not None else _labels(ds)
    if reading.channel is not None:
        raise ConfigError(
            what=f"--channel {','.join(reading.channel)} for {name}",
            why=f"channels are a slide's, and this is a raster; its bands are {_listed(labels)}",
            mend="choose by number: --bands 1",
        )
    alpha = alpha_band(ds)
    chosen = _asked(reading.bands, len(labels), native=native, name=name) or (
        tuple(i for i in range(1, len(labels) + 1) if i != alpha) if native else _rgb(ds, labels, name=name)
    )
    read = (1,) if palette is not None else tuple(sorted(set(chosen)))
    order = tuple(i - 1 for i in chosen) if palette is not None else tuple(read.index(i) for i in chosen)
    kind = mask_kind(ds)
    nodata = tuple(ds.nodatavals[i - 1] if reading.nodata is None else reading.nodata for i in read)
    types = [np.dtype(numpy_name(ds.dtypes[i - 1])) for i in read]
    return BandPlan(
        read=read,
        order=order,
        names=tuple(labels[i - 1] for i in chosen),
        dtype="uint8" if palette is not None else np.result_type(*(np.zeros(0, kind).real.dtype for kind in types)).name,
        real=reading.complex if any(kind.kind == "c" for kind in types) else None,
        mask="nodata" if kind == "none" and reading.nodata is not None else kind,
        alpha=alpha if kind == "alpha" else None,
        nodata=nodata if kind == "nodata" or reading.nodata is not None else (None,) * len(read),
        palette=palette,
    )


def mask_kind(ds: DatasetReader) -> str:
    """What says where data is, by GDAL's precedence: alpha, mask (internal or .msk), nodata or none."""
    flags = ds.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags:
        return "alpha" if MaskFlags.alpha in flags else "mask"
    return "nodata" if MaskFlags.nodata in flags else "none"


def _labels(ds: DatasetReader) -> tuple[str, ...]:
    """Description, else colour, else number of each band."""
    known = {ColorInterp.undefined, ColorInterp.palette}
    colours = ["" if c in known else c.name for c in ds.colorinterp]
    return tuple(
        text or colour or f"band {i}" for i, (text, colour) in enumerate(zip(ds.descriptions, colours, strict=True), 1)
    )


def _palette(ds: DatasetReader) -> NDArray[np.uint8] | None:
    if ds.count != 1 or ds.colorinterp[0] != ColorInterp.palette:
        return None
    entries: dict[int, tuple[int, ...]] = ds.colormap(1)
    table = np.zeros((2 ** (8 * np.dtype(ds.dtypes[0]).itemsize), 4), np.uint8)
    for value, colour in entries.items():
        table[value] = colour
    return table


def _asked(bands: tuple[int, ...] | None, count: int, *, native: bool, name: str) -> tuple[int, ...] | None:
    if bands is None:
        return None
    if max(bands) > count:
        raise ConfigError(
            what=f"{name} has no band {max(bands)}",
            why=f"it has {count} bands",
            mend=f"use --bands with numbers from 1 to {count}",
        )
    if native or len(bands) == 3:
        return bands
    if len(bands) == 1:
        return bands * 3
    raise ConfigError(
        what=f"{len(bands)} bands for a model that takes red, green and blue",
        why="one band is repeated three times and three are used as they are; anything else would be a guess",
        mend="use --bands R,G,B",
    )


def _rgb(ds: DatasetReader, labels: tuple[str, ...], *, name: str) -> tuple[int, ...]:
    if len(labels) == 3 and ds.count == 1:
        return (1, 2, 3)
    colours = list(ds.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(c in colours for c in wanted):
        return tuple(colours.index(c) + 1 for c in wanted)
    data = [i for i, c in enumerate(colours, 1) if c != ColorInterp.alpha]
    if len(data) == 1:
        return (data[0],) * 3
    # The fourth of four unnamed bands may be infrared or opacity and the first three in any order: ask.
    if len(data) == 3:
        return (data[0], data[1], data[2])
    raise ConfigError(
        what=f"{name} does not say which bands are red, green and blue",
        why=f"it has {len(data)} bands without that interpretation: {_listed(labels)}",
        mend="name them, for example --bands 3,2,1",
    )


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(f"{i} {label}" for i, label in enumerate(labels, 1))
