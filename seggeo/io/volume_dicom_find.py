"""DICOM files in a folder, and the one series of them that is read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from seggeo.errors import ConfigError, SourceError
from seggeo.io.volume_dicom_headers import Series, damage, planes_of, quiet, read_header, series_of

_OLD_ENDINGS = (".dcm", ".ima", ".dicom")
_LISTED = 12
_DERIVED = ("SEG", "RTDOSE", "PR", "KO")
"""Kinds that lie beside the images they were made of; read where they are asked for or alone."""
_MARK = b"DICM"


def find_series(path: Path, name: str, wanted: str | None) -> Series:
    """The series to read, of a file or of a folder and those below it.

    Files that are not DICOM, a DICOMDIR and objects without images (reports, structures) are passed over.

    Args:
        path: File or folder.
        name: What the user is shown.
        wanted: Number or end of the UID of a series, None where there is only one.

    Raises:
        SourceError: No DICOM image there, or a damaged header.
        ConfigError: Several series, or none that was asked for.
    """
    found: dict[str, Series] = {}
    seen: set[str] = set()
    for file in _files(path):
        _add(found, seen, file, force=path.is_file() or _is_old(file))
    if not found:
        raise SourceError(
            what=f"{name} holds no DICOM image", why="no file there has a DICOM header with rows and columns",
            mend="name the folder of the series, or one DICOM file",
        )  # fmt: skip
    return _chosen(sorted(found.values(), key=lambda s: (s.number is None, s.number or 0, s.uid)), name, wanted)


def _files(path: Path) -> Iterator[str]:
    if path.is_file():
        yield str(path)
        return
    for place, folders, names in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith(".") and not folder.endswith(".seggeo"))
        for name in sorted(names):
            file = os.path.join(place, name)
            if not name.startswith(".") and name.upper() != "DICOMDIR" and os.path.isfile(file) and _may_be(file):
                yield file


def _may_be(path: str) -> bool:
    """True for a file with the mark of DICOM at byte 128, or an ending that says so."""
    try:
        with open(path, "rb") as stream:
            stream.seek(128)
            return stream.read(4) == _MARK or _is_old(path)
    except OSError:
        return False


def _is_old(path: str) -> bool:
    return path.lower().endswith(_OLD_ENDINGS)


def _add(found: dict[str, Series], seen: set[str], path: str, *, force: bool) -> None:
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rules of writing that the file breaks
            header = read_header(path, force=force)
            if header is None or str(header.SOPInstanceUID) in seen:  # a copy of a file is the same image once more
                return
            seen.add(str(header.SOPInstanceUID))
            new = series_of(header)
            series = found.setdefault(new.uid, new)
            series.planes.extend(planes_of(header, path))
    except damage() as error:
        raise SourceError(what=f"{path} has a damaged DICOM header", why=str(error), mend="export the series again") from error
    series.files += 1


def _chosen(found: list[Series], name: str, wanted: str | None) -> Series:
    if wanted is None:
        first = [series for series in found if series.modality not in _DERIVED] or found
        if len(first) == 1:
            return first[0]
        why = "the folder holds " + _listed(found)
        by_uid = len({series.number for series in first}) < len(first)
        raise ConfigError(what=f"{name} holds {len(found)} DICOM series", why=why, mend=_mend(first[0], by_uid=by_uid))
    by_number = [series for series in found if series.number is not None and str(series.number) == wanted.strip()]
    matching = by_number or [series for series in found if series.uid.endswith(wanted.strip())]
    if len(matching) == 1:
        return matching[0]
    raise ConfigError(
        what=f"--series {wanted} is {'several' if matching else 'none'} of the {len(found)} series in {name}",
        why="the folder holds " + _listed(matching or found), mend=_mend((matching or found)[0], by_uid=len(matching) > 1),
    )  # fmt: skip


def _mend(series: Series, *, by_uid: bool = False) -> str:
    value = series.uid[-12:] if by_uid or series.number is None else series.number
    return f"choose one by its number or the end of its UID: --series {value}"


def _listed(found: list[Series]) -> str:
    lines = []
    for series in found[:_LISTED]:
        rows, cols = series.planes[0].layout.shape
        number = "-" if series.number is None else series.number
        lines.append(
            f"{number}: {series.description or 'without description'}, {series.modality or 'unknown kind'}, "
            f"{len(series.planes)} images of {rows} x {cols} (UID ...{series.uid[-12:]})"
        )
    more = len(found) - _LISTED
    return "; ".join(lines + ([f"and {more} more"] if more > 0 else []))
