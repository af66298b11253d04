"""Groups of images from a CSV: figures per kind of image, and which images to look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seggeo.errors import ConfigError, SourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The group of each image by its name."""

    by_name: Mapping[str, str]
    is_filter: bool
    """True when only the images named here are to be compared."""

    @property
    def names(self) -> set[str]:
        """Names of all images with a group."""
        return set(self.by_name)

    def of(self, name: str) -> str:
        """The group of an image.

        Raises:
            ConfigError: It has none.
        """
        if name not in self.by_name:
            raise ConfigError(
                what=f"image {name!r} has no group", why="the CSV of --groups has no row with that name",
                mend="its column `name` holds file names without their endings",
            )  # fmt: skip
        return self.by_name[name]

    @classmethod
    def read(cls, place: str, where: str | None) -> Groups:
        """The groups of `index.csv:column`, of the rows with `where`, `column=value`.

        Raises:
            ConfigError: A column does not exist, or no row fits.
            SourceError: The CSV cannot be read.
        """
        file, _, column = place.rpartition(":")
        if not file:
            raise ConfigError(what=f"--groups {place}", why="it names no column", mend="use --groups index.csv:kind")
        rows = _rows(Path(file))
        key, _, value = (where or "").partition("=")
        for needed in filter(None, ("name", column, key)):
            if rows and needed not in rows[0]:
                raise ConfigError(
                    what=f"{file} has no column {needed!r}",
                    why=f"its columns are {', '.join(rows[0])}",
                    mend="name one of them",
                )
        found = {row["name"]: row[column] for row in rows if where is None or row[key] == value}
        if not found:
            raise ConfigError(
                what=f"{file} names no image", why=f"no row has {where}" if where else "it is empty", mend="check it"
            )
        return cls(by_name=found, is_filter=where is not None)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(what=f"{path} cannot be read", why=str(error), mend="give a CSV in UTF-8") from error
