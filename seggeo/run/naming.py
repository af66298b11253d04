"""Where a job's files go: what the name after `-o` asks for, and the names of everything beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from seggeo.errors import ConfigError

SUFFIXES = {
    "gpkg": "_objects.gpkg", "fgb": "_objects.fgb", "parquet": "_objects.parquet", "geojson": "_objects.geojson",
    "cog": "_labels.tif", "qupath": "_cells.geojson.gz", "cells": "_cells.parquet", "cells-csv": "_cells.csv",
    "ome-tiff": "_labels.ome.tif", "ome-zarr": "_labels.ome.zarr", "nifti": "_labels.nii.gz", "masks": "_masks",
    "mha": "_labels.mha", "nrrd": "_labels.nrrd", "dicom-seg": "_labels.dcm",
    "objects": "_objects.csv", "ply": "_meshes", "obj": "_meshes_obj",
}  # fmt: skip
OPENS_WITH = {
    "gpkg": "QGIS (drag it in; the style is inside), geopandas", "fgb": "QGIS, geopandas",
    "parquet": "geopandas, DuckDB, QGIS", "geojson": "a web map, QGIS", "cog": "QGIS, rasterio",
    "qupath": "QuPath (drag it onto the slide)", "cells": "pandas, R, DuckDB", "cells-csv": "any spreadsheet",
    "ome-tiff": "napari, QuPath", "ome-zarr": "napari (drag it in), Fiji, zarr",
    "nifti": "ITK-SNAP, 3D Slicer, FSLeyes, nibabel", "masks": "any image viewer (a folder of slices)",
    "mha": "ITK-SNAP, 3D Slicer, SimpleITK", "nrrd": "3D Slicer, ITK-SNAP, SimpleITK",
    "dicom-seg": "OHIF, 3D Slicer (dcmqi), highdicom",
    "objects": "any spreadsheet, pandas, R", "ply": "MeshLab, Blender, ParaView, 3D Slicer",
    "obj": "Blender, MeshLab and most 3-D programs",
}  # fmt: skip
_MORE_ENDINGS = {".tiff": "cog", ".json": "geojson", ".gz": "geojson", ".nii": "nifti"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a job's files go."""

    outputs: Mapping[str, Path]
    """Output file by sink name."""
    preview: Path
    report: Path
    """Of a volume; other images have none."""
    provenance: Path
    work: Path


class Folder(type(Path())):  # type: ignore[misc]  # the system's own kind of path
    """A path that was written with a separator at its end: a folder, whatever its name."""

    __slots__ = ()


def target_of(text: str) -> Path:
    """What a user names with `-o`; a separator at the end, which a path forgets, makes it a folder."""
    is_folder = text.endswith(tuple(mark for mark in (os.sep, os.altsep) if mark))
    return Folder(text) if is_folder else Path(text)


def target_text(out: Path) -> str:
    """A text that `target_of` makes the same of, from any folder."""
    whole = str(out.absolute())
    return os.path.join(whole, "") if isinstance(out, Folder) else whole


def format_of(out: Path | None) -> str | None:
    """The format that an output's ending names; None for a folder.

    A name without an ending, or with a number for one (`run_0.5`), is a folder; a folder that is there, or is written with a
    separator at its end, may have any name but that of a Zarr, which is a folder itself.

    Raises:
        ConfigError: The ending is of no format.
    """
    if out is not None and out.suffix.lower() == ".zarr":
        return "ome-zarr"
    if out is None or isinstance(out, Folder) or out.is_dir() or out.suffix[1:].isdigit() or not out.suffix:
        return None
    if out.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return "ome-tiff"
    endings = {_ending(SUFFIXES[name]): name for name in reversed(SUFFIXES)} | _MORE_ENDINGS  # the first of an ending wins
    endings.pop("", None)  # of folders
    kind = endings.get(_ending(out.name))
    if kind is None:
        raise ConfigError(
            what=f"-o {out} is neither a folder nor a file that can be written",
            why=f"known endings are {', '.join(sorted(endings))}",
            mend="use one of these, or make the folder first",
        )
    return kind


def with_format(values: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """Settings by field name, with the format that an output file's ending names where none was chosen.

    Raises:
        ConfigError: Another format was chosen.
    """
    kind = format_of(out)
    if kind is None or out is None:
        return dict(values)
    if _named_by(out, values.get("format", (kind,))) is not None:
        return {"format": (kind,), **values}
    chosen = ",".join(values["format"])
    raise ConfigError(
        what=f"-o {out} is a {kind} file, and the format is {chosen}",
        why="the file named would not be written",
        mend=f"use -f {kind},{chosen} for both, or a name that ends in {Path(SUFFIXES.get(values['format'][0], '')).suffix}",
    )


def _named_by(out: Path, formats: Iterable[str]) -> str | None:
    """The first of some formats that a file's ending can stand for."""
    ending, first = _ending(out.name), format_of(out)
    return next((name for name in formats if name == first or _ending(SUFFIXES.get(name, "")) == ending), None)


def _ending(name: str) -> str:
    """The ending that tells a format: the last one, of a packed NIfTI the last two."""
    ending = ".nii.gz" if name.lower().endswith(".nii.gz") else Path(name.lower()).suffix
    return ".tif" if ending == ".tiff" else ending


def writable(name: str) -> bool:
    """True for a name without control characters (a newline, a tab, a bell), which some libraries refuse."""
    return not any(category(letter) == "Cc" for letter in name)


def _without_controls(stem: str) -> str:
    """A stem with others in their place, told apart from one that is so by a digest."""
    cleaned = "".join("_" if category(letter) == "Cc" else letter for letter in stem)
    return f"{cleaned}_{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"


def places(out: Path | None, stem: str, formats: tuple[str, ...], work: Path | None) -> Places:
    """File names of one job; control characters in the stem, which libraries cannot write, are left out of them.

    Args:
        out: What the user gave with `-o`: a file of one of the formats, a folder, or nothing (the current folder).
        stem: Name of the input without its ending.
        formats: Sinks.
        work: Run folder, if the user chose one.

    Raises:
        ConfigError: `out` is nothing that can be written.
    """
    if out is not None and not writable(str(out)):
        raise ConfigError(
            what=f"-o {str(out)!r} cannot be written", why="it has control characters", mend="use another name, or a folder"
        )
    stem = stem if writable(stem) else _without_controls(stem)
    named = format_of(out)
    folder = Path() if out is None else Path(out)
    if named is not None and out is not None:
        folder, stem = out.parent, out.name.removesuffix(".gz").rsplit(".", 1)[0]
    outputs = {name: folder / f"{stem}{SUFFIXES.get(name, '.' + name)}" for name in formats}
    own = None if named is None or out is None else _named_by(out, formats)
    if own is not None and out is not None:
        outputs[own] = out
    return Places(
        outputs=outputs, preview=folder / f"{stem}_preview.png",
        report=folder / f"{stem}_report.html", provenance=folder / f"{stem}_provenance.json",
        work=work or folder / f"{stem}.seggeo",
    )  # fmt: skip
