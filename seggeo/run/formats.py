"""Which formats are written: what fits the input where the user named none, and refusals of what cannot hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import seggeo.io as image_io
from seggeo.config import Settings
from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.output.dicom_seg import check_dicom_seg
from seggeo.run.naming import format_of

AUTO, VOLUME = "auto", "volume"
"""Names that stand for others: what fits, and a label volume in the input's own format."""
VOLUME_OF = {"nifti": "nifti", "dicom": "nifti", "itk": "nrrd", "ome-zarr": "ome-zarr", "tiff": "ome-tiff"}
"""Format of labels by the family of the input; a DICOM-SEG is written when asked for, since it needs more libraries."""
OF_VOLUMES = frozenset({"masks", "nifti", "mha", "nrrd", "dicom-seg", "objects", "ply", "obj"})
OF_SURFACES = frozenset({"ply", "obj"})
TWINS = {"cells-csv": "objects", "cog": "ome-tiff"}
"""What a file's ending stands for where it names a format of planes and the input is a volume."""
OF_PLANES = frozenset({"gpkg", "fgb", "parquet", "geojson", "cog", "qupath", "cells", "cells-csv"})


def with_formats(path: str, settings: Settings, out: Path | None) -> Settings:
    """Settings whose formats are names of sinks.

    Args:
        path: The input.
        settings: What the user asked for.
        out: The file or folder that the outputs go to, whose ending may have named the format.

    Raises:
        ConfigError: A volume's labels are asked for and it is none.
    """
    asked = settings.output.format
    if len(asked) == 1 and asked[0] in TWINS and asked[0] == format_of(out) and image_io.volume_kind(path) is not None:
        return replace(settings, output=replace(settings.output, format=(TWINS[asked[0]],)))
    if AUTO not in asked and VOLUME not in asked:
        return settings
    kind = image_io.volume_kind(path)
    if kind is None and VOLUME in asked:
        raise ConfigError(
            what=f"-f {','.join(asked)} for {path}", why="it is an image of one plane", mend="use -f cog for a label image"
        )
    fitting = ("gpkg",) if kind is None else ("masks", VOLUME, "objects")
    named = [name for one in asked for name in (fitting if one == AUTO else (one,))]
    formats = tuple(dict.fromkeys(VOLUME_OF[kind] if kind and name == VOLUME else name for name in named))
    return replace(settings, output=replace(settings.output, format=formats))


def check_fit(outputs: Mapping[str, Path], frame: Frame) -> None:
    """Refuse formats that cannot hold the result, before any work.

    Args:
        outputs: File of each format.
        frame: The work grid.

    Raises:
        ConfigError: Of a plane for a volume, or the other way round; surfaces of what has none.
        OutputError: A DICOM segmentation of what is no DICOM.
    """
    is_volume = frame.depth > 1 or frame.placement is not None
    wrong = [name for name in outputs if name in (OF_PLANES if is_volume else OF_VOLUMES)]
    if not wrong:
        _check_surfaces(outputs, frame)
        if "dicom-seg" in outputs:
            check_dicom_seg(frame, outputs["dicom-seg"])
        return
    what, mend = (
        ("a volume", "masks,volume,objects, ome-zarr, ply or obj") if is_volume else ("an image of one plane", "gpkg or cog")
    )
    raise ConfigError(what=f"-f {','.join(wrong)} for {what}", why="that format cannot hold it", mend=f"use -f {mend}")


def _check_surfaces(outputs: Mapping[str, Path], frame: Frame) -> None:
    asked = [name for name in outputs if name in OF_SURFACES]
    if asked and (frame.depth == 1 or frame.is_series):
        raise ConfigError(
            what=f"-f {','.join(asked)} for {'a series in time' if frame.is_series else 'a single slice'}",
            why="its objects have no surfaces", mend="use -f masks,volume,objects",
        )  # fmt: skip
