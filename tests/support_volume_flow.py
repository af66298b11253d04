"""Volumes for whole runs of the command: boxes that any slicing gives back exactly, and files that hold them."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from support_flow import ORACLE, write_model

TILED = ("--model", "oracle.py:Oracle", "--tile", "32", "--overlap", "8", "--workers", "1", "--no-preview")
"""Seams through every slice; the oracle takes the volume's own values for labels."""


def boxes(shape: tuple[int, int, int], seed: int = 0, dtype: str = "uint8") -> NDArray[Any]:
    """Boxes of many sizes, 1, 2, ... from the first axis on; more than any gap that is bridged lies between two of them.

    The cross-sections of a box are the same in every slice along every axis, so that an oracle's result is exact.
    """
    rng = np.random.default_rng(seed)
    volume, cell = np.zeros(shape, dtype), (9, 15, 17)
    for value, corner in enumerate(np.ndindex(*(n // c for n, c in zip(shape, cell, strict=True))), 1):
        size = [int(rng.integers(3, c - 4)) for c in cell]
        low = [i * c + int(rng.integers(0, c - 4 - s)) for i, c, s in zip(corner, cell, size, strict=True)]
        volume[tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))] = value
    return volume


def oracle_folder(folder: Path) -> Path:
    """A folder with the oracle in it."""
    folder.mkdir(exist_ok=True)
    write_model(folder, ORACLE)
    return folder


def same_objects(found: NDArray[Any], truth: NDArray[Any]) -> bool:
    """True when both hold the same masks, whatever their numbers."""
    if found.shape != truth.shape:
        return False
    pairs = np.unique(np.stack([found.ravel().astype(np.int64), truth.ravel().astype(np.int64)]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())


def files(folder: Path) -> dict[str, str]:
    """sha256 of everything by path but for JSON and run folders, which hold times."""
    kept = (p for p in folder.rglob("*") if p.is_file() and not any(part.endswith(".seggeo") for part in p.parts))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept if p.suffix != ".json"}


def rows(path: Path) -> list[dict[str, str]]:
    """The table of objects."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(table: list[dict[str, str]], *names: str) -> NDArray[np.float64]:
    """`(rows, names)` numbers of a table."""
    return np.array([[float(row[name]) for name in names] for row in table])


def centroids(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Mean index of every object of a label volume `1..n`, `(n, 3)`, in the array's order of axes."""
    return np.array([np.argwhere(labels == i).mean(axis=0) for i in range(1, int(labels.max()) + 1)])


AFFINES = ("oblique", "flipped", "sheared", "sform", "qform", "left-handed")


def nifti(path: Path, data: NDArray[Any], kind: str) -> Path:
    """A NIfTI of `(x, y, z)` values placed in one of the ways of `AFFINES`."""
    image = nibabel.Nifti1Image(data, _affine(kind))
    sform, qform = {"sform": (1, 0), "qform": (0, 1), "sheared": (2, 0)}.get(kind, (1, 1))
    image.set_qform(_affine("oblique" if kind == "sheared" else kind), qform)
    image.set_sform(_affine(kind), sform)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def _affine(kind: str) -> NDArray[np.float64]:
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    affine = np.eye(4)
    affine[:3, 3] = -31.5, 12.25, 104.75
    if kind in ("flipped", "left-handed"):
        affine[:3, :3] = np.diag([-0.8, 0.9, 2.5] if kind == "left-handed" else [-0.8, -0.9, 2.5])
    elif kind == "sheared":
        affine[:3, :3] = turn @ np.diag([0.8, 0.9, 2.5]) @ np.array([[1, 0.2, 0], [0, 1, 0.1], [0, 0, 1]])
    else:
        affine[:3, :3] = turn @ np.diag([0.8, 0.9, 2.5])
    return affine
