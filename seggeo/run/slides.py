"""The slides of a count: files, folders, globs, or a manifest that says more about each."""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category

from seggeo.errors import ConfigError, SourceError
from seggeo.run.plan import input_name

SUFFIXES = frozenset({
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".lsm",
    ".czi", ".vsi", ".zarr", ".png", ".jpg", ".jpeg", ".jp2",
})  # fmt: skip
"""Endings of what is taken from a folder; a file that is named is tried whatever it is called."""
_MANIFESTS = {".csv": ",;\t", ".tsv": "\t"}
_KNOWN = ("path", "mpp", "id", "regions")
_COUNTED = frozenset({
    "cells", "cells_in_tissue", "tissue_mm2", "per_mm2", "per_mm2_low", "per_mm2_high", "median_area_um2", "median_area_px",
    "positive", "positive_low", "positive_high", "work_mpp", "model", "at_seams", "cut", "tiles", "empty_tiles",
    "capped_tiles", "failed_tiles", "profile",
})  # fmt: skip
_OF_CLASSES = "cells_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """One image to count in."""

    path: str
    id: str
    """Begins the names of its files, and its row in the tables."""
    mpp: str = ""
    """Micrometres per pixel as the manifest says, unchecked: a slip in one row is that slide's error."""
    regions: str = ""
    """GeoJSON of this slide's regions, as the manifest says."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Other columns of the manifest, carried into the tables."""


def is_measured(column: str) -> bool:
    """True for a column that the tables fill with what was measured, so that no manifest may bring it."""
    return column in _COUNTED or column.startswith(_OF_CLASSES)


def find_slides(inputs: Sequence[str]) -> list[Slide]:
    """The slides that the words of a command line mean, repeats left out, each with an id of its own.

    A file is counted once, whatever names it; but once for each line of a manifest that gives it another id.

    Raises:
        ConfigError: A glob or folder without images, a manifest that is none, or two slides of one id.
        SourceError: A folder or manifest that cannot be read.
    """
    words = [(_is_manifest(word), slide) for word in dict.fromkeys(inputs) for slide in _slides_of(word)]
    listed = {os.path.realpath(slide.path) for is_listed, slide in words if is_listed}
    found: dict[tuple[Any, ...], Slide] = {}
    for is_listed, slide in words:
        place = os.path.realpath(slide.path)
        if is_listed or place not in listed:  # a manifest says more of a file than its name
            said = (slide.id, slide.mpp, slide.regions, *sorted(slide.facts.items())) if is_listed else ()
            found.setdefault((place, *said), slide)
    slides = list(found.values())
    named = Counter(slide.id.casefold() for slide in slides)  # some file systems do not tell A from a
    twice = next((slide for slide in slides if named[slide.id.casefold()] > 1), None)
    if twice is not None:
        raise ConfigError(
            what=f"{named[twice.id.casefold()]} slides are called {twice.id}",
            why="the id names a slide's files and rows, so that each needs its own",
            mend="give them ids in a manifest CSV: path,id",
        )
    return slides


def _is_manifest(word: str) -> bool:
    return Path(word).suffix.lower() in _MANIFESTS


def _slides_of(word: str) -> Iterable[Slide]:
    path = Path(word)
    if _is_manifest(word):
        return _from_manifest(path)
    if path.is_dir() and path.suffix.lower() not in SUFFIXES:
        return [_plain(name) for name in _in_folder(path)]
    if glob.has_magic(word) and not os.path.lexists(word):
        names = sorted(glob.glob(word, recursive=True))
        if not names:
            raise ConfigError(what=f"{word} matches no file", why="the pattern found nothing", mend="check it with ls")
        return [_plain(name) for name in names]
    return [_plain(word)]


def _plain(name: str) -> Slide:
    return Slide(path=name, id=slide_id(name))


def slide_id(name: str) -> str:
    """A file's name without its endings: `a.ome.tif` is `a`; what no table or page can hold is left out, and a digest added."""
    stem = input_name(name)
    stem = re.sub(r"\.ome$", "", stem, flags=re.IGNORECASE) or stem
    plain = "".join("_" if _is_odd(letter) else letter for letter in stem)
    return stem if plain == stem else f"{plain}_{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"


def _is_odd(letter: str) -> bool:
    """True for a control character, or half of one of a name that is not UTF-8."""
    return category(letter) in ("Cc", "Cs")


def _in_folder(folder: Path) -> list[str]:
    try:
        names = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise SourceError(what=f"{folder} cannot be listed", why=str(error), mend="check its permissions") from error
    if not names:
        raise ConfigError(
            what=f"{folder} holds no slides",
            why=f"looked for files ending in {', '.join(sorted(SUFFIXES))}, not in folders inside it",
            mend="name the files, or use a glob: 'slides/**/*.svs'",
        )
    return [str(name) for name in names]


def _from_manifest(path: Path) -> list[Slide]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            what=f"the manifest {path} cannot be read", why=str(error), mend="give a CSV file in UTF-8 with a column path"
        ) from error
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = max(_MANIFESTS[path.suffix.lower()], key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    columns = _columns(path, header, reader.fieldnames or ())
    reader.fieldnames = columns
    slides: list[Slide] = []
    lines_of: dict[str, int] = {}
    for row in reader:
        values = {str(k): (v or "").strip() for k, v in row.items() if k is not None and not isinstance(v, list)}
        if not any(values.values()):
            continue
        slide = _listed(path, reader.line_num, values)
        if (first := lines_of.setdefault(slide.id.casefold(), reader.line_num)) != reader.line_num:
            raise ConfigError(
                what=f"lines {first} and {reader.line_num} of {path} are both called {slide.id}",
                why="the id names a slide's files and rows, so that each line needs its own",
                mend="give each an id in the column id, also where they are of one file",
            )
        slides.append(slide)
    if not slides:
        raise ConfigError(what=f"the manifest {path} lists no slides", why="it has a header alone", mend="add a line for each")
    return slides


def _columns(path: Path, header: str, names: Iterable[str]) -> list[str]:
    """The columns of a manifest.

    Raises:
        ConfigError: None is of paths, two have one name, or one has the name of what is measured.
    """
    columns = [str(name).strip() for name in names]
    if "path" not in columns:
        raise ConfigError(
            what=f"the manifest {path} has no column path", why=f"its first line is {header[:80]!r}",
            mend="begin it with: path,mpp,id",
        )  # fmt: skip
    if twice := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
        raise ConfigError(
            what=f"the manifest {path} has {len(twice)} columns more than once: {', '.join(twice)}",
            why="which of them is meant cannot be told", mend="leave one of each",
        )  # fmt: skip
    if measured := list(filter(is_measured, columns)):
        raise ConfigError(
            what=f"the manifest {path} has columns that counts.csv fills itself: {', '.join(measured)}",
            why="what is measured would stand beside, or in place of, what the manifest says, under one name",
            mend=f"rename them, for instance {measured[0]}_before",
        )  # fmt: skip
    return columns


def _listed(path: Path, number: int, values: Mapping[str, str]) -> Slide:
    """The slide of a manifest's line.

    Raises:
        ConfigError: It names no file, or its id cannot begin the name of one.
    """
    if not values["path"]:
        raise ConfigError(what=f"line {number} of {path} names no file", why="its path is empty", mend="fill it in")
    where, name = str(path.parent / values["path"]), values.get("id", "")  # an absolute path stays itself
    if name in (".", "..") or {"/", "\\"} & set(name) or any(map(_is_odd, name)):
        raise ConfigError(
            what=f"line {number} of {path} has the id {name!r}", why="files in the folder of the results begin with it",
            mend="use an id without slashes and control characters",
        )  # fmt: skip
    return Slide(
        path=where, id=name or slide_id(where), mpp=values.get("mpp", ""),
        regions=str(path.parent / values["regions"]) if values.get("regions") else "",
        facts={k: v for k, v in values.items() if k not in _KNOWN},
    )  # fmt: skip
