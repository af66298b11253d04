"""What may be asked of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError
from seggeo.values import converted

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything but the two sides."""

    thresholds: tuple[float, ...] = THRESHOLDS
    """Least IoU of a match; ascending, above 0 and up to 1."""
    attribute: str | None = None
    """Column of a vector truth that holds the class."""
    pred_attribute: str | None = None
    """Column of a vector prediction that holds the class; `class` in seggeo's own files without it."""
    run: Path | None = None
    """Run folder of the prediction: near its seams and away from them are told apart."""
    image: Path | None = None
    """The picture, or a folder of them: the grid where both sides are vector files, and the ground of the overlay."""
    groups: str | None = None
    """`index.csv:column`, a CSV with a column `name` (the image's file name without its ending) and the column of the group."""
    where: str | None = None
    """`column=value` of that CSV: only these images are compared."""
    allow_missing: bool = False
    """True: compare the images that both sides have, and leave out the rest."""
    stack: bool = False
    """True: a folder is one volume with a mask for each slice, and not a data set."""
    link_gap: int = 2
    """Slices of a volume without the object that are no break of its id."""

    def __post_init__(self) -> None:
        t = self.thresholds
        if not t or list(t) != sorted(set(t)) or not all(0 < iou <= 1 for iou in t):
            raise ConfigError(
                what=f"thresholds {', '.join(map(str, t)) or 'none'}",
                why="they are least IoUs: above 0, up to 1, each once, ascending",
                mend="use --threshold 0.5,0.75",
            )
        if self.link_gap < 0:
            raise ConfigError(what=f"--link-gap {self.link_gap}", why="it counts slices", mend="use 0 or more")
        if self.where is not None and (self.groups is None or "=" not in self.where):
            raise ConfigError(
                what=f"--where {self.where}", why="it picks rows of the CSV of --groups by column=value",
                mend="use --groups index.csv:kind --where split=val",
            )  # fmt: skip


def options_from(values: Mapping[str, Any]) -> Options:
    """Options by field name; paths, and thresholds, may be texts, and one threshold a number.

    Raises:
        ConfigError: A name or value that cannot be.
    """
    known = {f.name for f in fields(Options)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            what=f"evaluate has no option {', '.join(unknown)}", why=f"its options are {', '.join(sorted(known))}",
            mend="leave it out",
        )  # fmt: skip
    given = converted(values, (Options,), "evaluate")
    if "thresholds" in given:
        given["thresholds"] = tuple(sorted(given["thresholds"]))
    return Options(**given)
