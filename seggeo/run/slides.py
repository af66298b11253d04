"""The slides of a count: files, folders, globs, or a manifest that says more about each."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seggeo.errors import ConfigError, SourceError
from seggeo.run.plan import input_name

SUFFIXES = frozenset({
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".lsm",
    ".czi", ".vsi", ".zarr", ".png", ".jpg", ".jpeg", ".jp2",
})  # fmt: skip
"""Endings of what is taken from a folder; a file that is named is tried whatever it is called."""
_MANIFESTS = {".csv": ",;\t", ".tsv": "\t"}
_KNOWN = ("path", "mpp", "id", "regions")


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


def find_slides(inputs: Sequence[str]) -> list[Slide]:
    """The slides that the words of a command line mean, repeats left out, each with an id of its own.

    Raises:
        ConfigError: A glob or folder without images, or a manifest that is none.
        SourceError: A folder or manifest that cannot be read.
    """
    found: dict[str, Slide] = {}
    for word in inputs:
        for slide in _slides_of(word):
            found.setdefault(os.path.realpath(slide.path), slide)
    slides = list(found.values())
    named = Counter(slide.id.casefold() for slide in slides)
    twice = next((slide for slide in slides if named[slide.id.casefold()] > 1), None)
    if twice is not None:
        raise ConfigError(
            what=f"{named[twice.id.casefold()]} slides are called {twice.id}",
            why="the id names a slide's files and rows, so that each needs its own",
            mend="give them ids in a manifest CSV: path,id",
        )
    return slides


def _slides_of(word: str) -> Iterable[Slide]:
    path = Path(word)
    if path.suffix.lower() in _MANIFESTS:
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
    """A file's name without its endings: `a.ome.tif` is `a`."""
    stem = input_name(name)
    return re.sub(r"\.ome$", "", stem, flags=re.IGNORECASE) or stem


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
    columns = [str(name).strip() for name in reader.fieldnames or ()]
    if "path" not in columns:
        raise ConfigError(
            what=f"the manifest {path} has no column path", why=f"its first line is {header[:80]!r}",
            mend="begin it with: path,mpp,id",
        )  # fmt: skip
    reader.fieldnames = columns
    slides = []
    for number, row in enumerate(reader, 2):
        values = {str(k): (v or "").strip() for k, v in row.items() if k is not None and not isinstance(v, list)}
        if not any(values.values()):
            continue
        if not values["path"]:
            raise ConfigError(what=f"line {number} of {path} names no file", why="its path is empty", mend="fill it in")
        where = str(path.parent / values["path"])  # an absolute path stays itself
        slides.append(
            Slide(
                path=where, id=values.get("id") or slide_id(where), mpp=values.get("mpp", ""),
                regions=str(path.parent / values["regions"]) if values.get("regions") else "",
                facts={k: v for k, v in values.items() if k not in _KNOWN},
            )
        )  # fmt: skip
    if not slides:
        raise ConfigError(what=f"the manifest {path} lists no slides", why="it has a header alone", mend="add a line for each")
    return slides
