"""Which sides of a comparison are volumes, and how each kind is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.evaluation.options import Options
from seggeo.evaluation.volume_files import ArrayVolume, SliceFolder, open_npy
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.io.volume_detect import open_volume_file, volume_kind

VOLUME_LABELS = (".nii", ".mha", ".mhd", ".nrrd")
"""Endings of label volumes in the folder of a data set, beside `.gz`."""
_LABEL_GROUPS = "labels"


def is_volume(given: Any) -> bool:
    """True for a file, folder or array that is one volume by itself; a folder of slices is one only beside a volume."""
    if isinstance(given, np.ndarray):
        return given.ndim == 3
    if isinstance(given, LabelVolume):
        return True
    if not isinstance(given, str | Path) or not Path(given).exists():
        return False
    return Path(given).suffix.lower() == ".npy" or volume_kind(str(given)) is not None


def is_stack(given: Any, other: Any, options: Options) -> bool:
    """True for a folder with one mask for each slice: because `--stack` says so, or the other side is one volume."""
    if not isinstance(given, str | Path) or not Path(given).is_dir() or is_volume(given):
        return False
    if options.stack:
        return True
    return is_volume(other) and not any(is_volume(path) for path in Path(given).iterdir() if path.is_file())


def open_stack(folder: Path) -> LabelVolume:
    """The volume whose slices a folder holds.

    Raises:
        SourceError: No slices, or the first is no label raster.
    """
    return LabelVolume(name=str(folder), file=SliceFolder(folder))


def open_labels(given: Any) -> LabelVolume:
    """The label volume of a file, an OME-Zarr group or an array `(z, row, col)`.

    Raises:
        SourceError: It cannot be read, or is no label volume.
    """
    if isinstance(given, LabelVolume):
        return given
    if isinstance(given, np.ndarray):
        if not given.size:
            raise SourceError(
                what=f"a label volume of shape {given.shape}", why="it holds no voxels", mend="give slices, rows and columns"
            )  # fmt: skip
        return LabelVolume(name="the array", file=ArrayVolume(given))
    path = _label_group(Path(given))
    if path.suffix.lower() == ".npy":
        return LabelVolume(name=str(given), file=open_npy(path))
    return LabelVolume(name=str(given), file=open_volume_file(str(path), Reading()))


def _label_group(path: Path) -> Path:
    """The labels of an OME-Zarr image where there is one set of them, and the path itself otherwise.

    Raises:
        ConfigError: There are several.
    """
    inside = path / _LABEL_GROUPS
    if not inside.is_dir():
        return path
    groups = sorted(p for p in inside.iterdir() if p.is_dir())
    if len(groups) == 1:
        return groups[0]
    names = ", ".join(p.name for p in groups) or "none"
    raise ConfigError(
        what=f"{path} is a picture with {len(groups)} sets of labels", why=f"they are: {names}",
        mend=f"name one of them: {inside / (groups[0].name if groups else 'NAME')}",
    )  # fmt: skip


def check_options(options: Options) -> None:
    """Refuse what is asked of images only.

    Raises:
        ConfigError: `--run` or `--image`.
    """
    for name, why in (("run", "seams are told apart in one plane"), ("image", "the picture is laid under one plane")):
        if getattr(options, name) is not None:
            raise ConfigError(what=f"--{name} with a volume", why=why, mend=f"leave out --{name}")
