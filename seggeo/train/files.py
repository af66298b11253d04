"""Which files are images and which are their labels, by their names; volumes may be folders, and have endings of two parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from seggeo.io.volume_detect import volume_kind

IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".bmp", ".webp")
VOLUMES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".ome.zarr", ".zarr")
"""Of files and folders that are volumes; stacks in TIFF files have the endings of images."""
LABEL_ENDINGS = ("_labels", "_label", "_masks", "_mask")
"""What the name of an image and of its labels may differ by."""
_TABLES = (".gpkg", ".geojson", ".fgb", ".parquet", ".shp")
_TYPES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png", *_TABLES, *VOLUMES, ".npy")
"""Of label files, the longer of two that fit first."""


def name_of(path: Path) -> str:
    """A file's name without its ending; `a` of a.nii.gz and a.ome.tif, too."""
    lower = path.name.lower()
    ending = next((end for end in (".ome.tif", ".ome.tiff", *VOLUMES) if lower.endswith(end) and lower != end), None)
    return path.stem if ending is None else path.name[: -len(ending)]


def images_in(folder: Path) -> list[Path]:
    """The images and volumes of a folder, in order."""
    return sorted(p for p in folder.iterdir() if _is_image(p))


def labels_in(folder: Path) -> dict[str, Path]:
    """The label files of a folder by name without ending."""
    return {name_of(p): p for p in sorted(folder.iterdir()) if p.name.lower().endswith(_TYPES) and not _is_plain_folder(p)}


def labels_of(image: Path, found: dict[str, Path]) -> Path | None:
    """The labels, among some by name, of an image: those of its name, or of its name and an ending."""
    stems = dict.fromkeys((image.stem, name_of(image)))
    return next((found[stem + end] for stem in stems for end in ("", *LABEL_ENDINGS) if stem + end in found), None)


def labels_beside(image: Path) -> Path | None:
    """The labels of an image in its own folder."""
    stems = dict.fromkeys((image.stem, name_of(image)))
    names = (image.with_name(stem + end + kind) for stem in stems for end in LABEL_ENDINGS for kind in _TYPES)
    return next((path for path in names if path.exists() and not _is_plain_folder(path)), None)


def are_labels(path: Path) -> bool:
    """True for a file whose name says that it holds the labels of another."""
    return path.stem.endswith(LABEL_ENDINGS) or name_of(path).endswith(LABEL_ENDINGS)


def is_volume(path: Path) -> bool:
    """True for a file or folder that is a volume by what it holds."""
    return volume_kind(str(path)) is not None


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Files, and in place of folders the files in them, in order."""
    return [file for path in paths for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])]


def _is_image(path: Path) -> bool:
    return is_volume(path) if path.is_dir() else path.is_file() and path.name.lower().endswith((*IMAGES, *VOLUMES))


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.lower().endswith(VOLUMES)
