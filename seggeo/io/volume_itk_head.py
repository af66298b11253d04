"""Heads of MetaImage and NRRD files: where the voxels lie and how they are packed. What they mean is SimpleITK's to say.

Both formats are lines of text before the voxels or beside them. Voxels beside them must lie in the head's own folder: a head
that names another place could have any file of the machine read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seggeo.errors import SourceError

_HEAD_BYTES = 256 * 2**10
_META = {".mha": "MetaImage", ".mhd": "MetaImage"}
_TRUE = ("true", "t", "1", "yes")
_NRRD_PACKING = {"raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bz2", "bz2": "bz2"}
_NAMES_SPATIAL = ("domain", "space", "???", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the voxels of a volume are."""

    kind: str
    """MetaImage or NRRD."""
    io: str
    """SimpleITK's name of the reader."""
    data: Path
    """File with the voxels, perhaps the head's own."""
    offset: int
    """Bytes before the first voxel, or what packs them; -1: the voxels are the last bytes of the file."""
    packing: str
    """raw, zlib (with either head) or bz2; other where only SimpleITK knows."""
    is_big: bool
    """True where the first byte of a number is its highest."""
    unit: str
    has_space: bool
    """False where nothing says how the axes lie in a patient."""
    is_list: bool
    """True where what looks like colours are volumes in time."""


def read_head(path: Path, name: str) -> Head:
    """What the text at the start of a file says.

    Raises:
        SourceError: Not one of the two formats, or the voxels lie in another folder or in several files.
    """
    with path.open("rb") as file:
        raw = file.read(_HEAD_BYTES)
    if raw.startswith(b"NRRD000"):
        return _nrrd(path, name, raw)
    if path.suffix.lower() in _META or b"ElementDataFile" in raw:
        return _meta(path, name, raw)
    raise _refused(name, "it starts neither as a MetaImage (NDims = 3) nor as an NRRD (NRRD0004)")


def _meta(path: Path, name: str, raw: bytes) -> Head:
    fields, end = _fields(raw, " = ", name)
    if "elementdatafile" not in fields:
        raise _refused(name, "its head has no ElementDataFile")
    value = fields["elementdatafile"]
    is_local = value.lower() == "local"
    if not is_local and (value.lower().startswith("list") or "%" in value):
        raise _several(name)
    skip = int(fields.get("headersize", "0")) if _is_number(fields.get("headersize", "0")) else 0
    packed = fields.get("compresseddata", "false").lower() in _TRUE
    binary = fields.get("binarydata", "true").lower() in _TRUE
    order = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false"))
    return Head(
        kind="MetaImage", io="MetaImageIO", data=path if is_local else _beside(path, value, name),
        offset=-1 if skip < 0 else skip + (end if is_local else 0),
        packing="other" if not binary else "zlib" if packed else "raw", is_big=order.lower() in _TRUE,
        unit=_unit(fields.get("distanceunits", "mm")), has_space=True, is_list=False,
    )  # fmt: skip


def _nrrd(path: Path, name: str, raw: bytes) -> Head:
    fields, end = _fields(raw, ": ", name)
    value = fields.get("data file", fields.get("datafile"))
    if value is not None and (value.lower().startswith("list") or "%" in value):
        raise _several(name)
    packing = _NRRD_PACKING.get(fields.get("encoding", "").lower(), "other")
    skip = fields.get("byte skip", fields.get("byteskip", "0"))
    lines = fields.get("line skip", fields.get("lineskip", "0"))
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()]
    is_plain = lines == "0" and _is_number(skip) and (packing == "raw" or skip == "0")
    is_plain &= all(kind in _NAMES_SPATIAL for kind in kinds[1:])
    start = 0 if value is not None else end
    return Head(
        kind="NRRD", io="NrrdImageIO", data=path if value is None else _beside(path, value, name),
        offset=-1 if skip.startswith("-") else start + (int(skip) if is_plain else 0),
        packing=packing if is_plain else "other", is_big=fields.get("endian", "little").lower() == "big",
        unit=_unit(fields.get("space units", "mm").split()[0].strip('"') if fields.get("space units") else "mm"),
        has_space="space" in fields, is_list=bool(kinds) and kinds[0] in ("list", "time"),
    )  # fmt: skip


def _fields(raw: bytes, mark: str, name: str) -> tuple[Mapping[str, str], int]:
    """The lines of a head by name in small letters, and where what follows it begins."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(raw):
        stop = raw.find(b"\n", at)
        stop = len(raw) if stop < 0 else stop
        line = raw[at:stop].decode("latin-1").strip()
        at = min(stop + 1, len(raw))
        key, found, value = line.partition(mark.strip())
        key = key.strip().lower()
        if mark == ": " and not line:
            break
        if not found or line.startswith("#") or (mark == ": " and value.startswith("=")):
            continue
        if key in fields and fields[key] != value.strip():
            raise _refused(name, f"its head gives {key!r} twice")
        fields[key] = value.strip()
        if key == "elementdatafile":
            break
    return fields, at


def _beside(path: Path, value: str, name: str) -> Path:
    """A file of voxels in the head's own folder."""
    folder = path.parent
    if "\0" in value:
        raise _refused(name, f"its voxels have the name {value!r}")
    data = folder / value.removeprefix("./")
    if os.path.basename(data) != value.removeprefix("./") or data.resolve().parent != folder.resolve():
        raise SourceError(
            what=f"{name} is refused", why=f"its voxels lie at {value}, and that could be any file of this machine",
            mend="put the file of voxels beside its head, and name it there without a folder",
        )  # fmt: skip
    if not data.is_file():
        raise _refused(name, f"its voxels should lie beside it in {value}, which is not there")
    return data


def _unit(text: str) -> str:
    return {"um": "um", "\u00b5m": "um", "\u03bcm": "um", "microns": "um", "micrometer": "um"}.get(text.strip().lower(), "mm")


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def _several(name: str) -> SourceError:
    return SourceError(
        what=f"{name} is not read", why="its voxels lie in several files",
        mend='write it as one: SimpleITK.WriteImage(SimpleITK.ReadImage("IN"), "OUT.mha")',
    )  # fmt: skip


def _refused(name: str, why: str) -> SourceError:
    return SourceError(what=f"{name} is not a volume that can be read", why=why, mend="copy or export the file again")
