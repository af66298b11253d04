"""Whether two label volumes are of one grid: their sizes, and their places where both say them; nothing is resampled."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.io.volume_file import VolumeFacts

_OFF = 0.1
"""Distance of corners, in voxels, from which two volumes lie in two places: 32-bit affines of large scanners stay below."""
_STEPS_OFF = 0.01
"""Ratio of voxel sizes from which a reader is told."""
_MM = {"mm": 1.0, "um": 1e-3}
_AXES = ("z", "row", "column")
Matrix = NDArray[np.float64]


def check_volumes(pred: LabelVolume, truth: LabelVolume, name: str = "") -> tuple[str, ...]:
    """Refuse two volumes that are not of one grid; what a reader must know of them where they are.

    Raises:
        SourceError: Sizes differ, or both say where they lie and it is not the same place, voxel for voxel.
    """
    where = f" of {name}" if name else ""
    if pred.shape != truth.shape:
        raise _sizes_differ(pred, truth, where)
    remarks = [f"{side.name}: {warning}" for side in (pred, truth) for warning in side.file.facts.warnings]
    a, b = pred.file.facts, truth.file.facts
    if a.space and b.space:
        off = place_difference(a, b, "the prediction")
        if off:
            raise SourceError(
                what=f"prediction and truth{where} do not lie at one place", why=off,
                mend="bring one onto the grid of the other, for example with nibabel.processing.resample_from_to(..., order=0)",
            )  # fmt: skip
    elif a.space or b.space:
        silent, vocal = (pred, truth) if b.space else (truth, pred)
        remarks.append(f"{silent.name} does not say where it lies: compared with {vocal.name} in the order of the files")
    else:
        remarks += _steps_differ(a, b, where)
    return tuple(remarks)


def _steps_differ(pred: VolumeFacts, truth: VolumeFacts, where: str) -> list[str]:
    """What is said of voxels of two sizes, where both sides know theirs."""
    steps = [np.linalg.norm(_world(facts)[:, :3], axis=0) for facts in (pred, truth)]
    if pred.unit not in _MM or truth.unit not in _MM or np.abs(steps[0] / steps[1] - 1).max() <= _STEPS_OFF:
        return []
    sizes = " and ".join(" x ".join(f"{step:.4g}" for step in own) for own in steps)
    return [f"voxel sizes{where} differ: {sizes} mm (z, row, column; prediction and truth), compared voxel by voxel"]


def _sizes_differ(pred: LabelVolume, truth: LabelVolume, where: str) -> SourceError:
    sizes = " and ".join(" x ".join(map(str, side.shape)) for side in (pred, truth))
    why = f"they have {sizes} voxels (slices x rows x columns)"
    if sorted(pred.shape) == sorted(truth.shape):
        why += "; the axes may be in another order"
        return SourceError(
            what=f"prediction and truth{where} are not of one size", why=why,
            mend="bring one into the order of the other: numpy.transpose, or nibabel.as_closest_canonical on both",
        )  # fmt: skip
    return SourceError(
        what=f"prediction and truth{where} are not of one size", why=why,
        mend="predict on the very volume that was labelled, at its full resolution: nothing is resampled",
    )  # fmt: skip


def place_difference(pred: VolumeFacts, truth: VolumeFacts, subject: str) -> str:
    """How the place of one volume, `subject`, differs from another's of its size; nothing where it does not.

    The eight corners are compared in voxels of the second.
    """
    between = np.linalg.inv(_square(_world(truth))) @ _square(_world(pred))
    last = np.array(truth.shape, np.float64) - 1
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, end) for end in last))])
    off = np.abs(corners @ between.T - corners).max()
    if off <= _OFF:
        return ""
    return f"{_difference(between, last, subject)}; corners are up to {off:.3g} voxels apart"


def _difference(between: Matrix, last: Matrix, subject: str) -> str:
    """What turns the subject's voxels into the other's, in words."""
    turn, shift = between[:3, :3], between[:3, 3]
    whole = np.rint(turn)
    if np.abs(turn - whole).max() * last.max(initial=1) > _OFF or not np.array_equal(
        np.abs(whole) @ np.abs(whole).T, np.eye(3)
    ):
        return "their voxels differ in size or direction"
    if not np.array_equal(np.abs(whole), np.eye(3)):
        return "their axes are in another order"
    flipped = np.diag(whole) < 0
    moved = shift - np.where(flipped, last, 0)
    words = []
    if flipped.any():
        words.append(f"mirrored along {', '.join(np.array(_AXES)[flipped])}")
    if np.abs(moved).max() > _OFF:
        words.append(f"shifted by {', '.join(f'{step:.4g}' for step in moved)} voxels (z, row, column)")
    return f"{subject} is {' and '.join(words)}"


def _world(facts: VolumeFacts) -> Matrix:
    """The matrix `(3, 4)` to world axes right, anterior, superior in mm; of a microscope, in its own axes."""
    matrix = np.asarray(facts.matrix, np.float64) * _MM.get(facts.unit, 1.0)
    if facts.space == "LPS":
        matrix = matrix * np.array([[-1.0], [-1.0], [1.0]])
    return matrix


def _square(matrix: Matrix) -> Matrix:
    return np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
