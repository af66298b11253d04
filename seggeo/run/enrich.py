"""What tables of cells say beside the masks: intensities, stains, positivity and the region each cell lies in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import seggeo.io as image_io
from seggeo.config import Output
from seggeo.errors import ConfigError, OutputError
from seggeo.geometry import Frame
from seggeo.io.regions import read_regions
from seggeo.output.cells_table import Extras
from seggeo.protocols import Result
from seggeo.run.intensity import Rule, measure, white_of
from seggeo.run.look import OVERVIEW_PX
from seggeo.run.plan import Plan
from seggeo.run.region_counts import Lookup
from seggeo.run.volume_intensity import measure_volume

TABLES = frozenset({"cells", "cells-csv", "qupath", "objects"})
"""Sinks that take extras."""

_OF_CELLS = TABLES - {"objects"}


def enriched(plan: Plan, path: str, result: Result, folder: Path) -> Extras:
    """Further columns for the tables of a result.

    Args:
        plan: Of the job.
        path: The input.
        result: Its merged objects.
        folder: Where the columns' files are put.

    Raises:
        ConfigError: A rule of positivity or regions that do not fit the slide.
        SourceError: Pixels that cannot be read.
    """
    output, reading = plan.settings.output, replace(plan.settings.reading, tissue="none", neighbours=0)
    with image_io.open_source(path, reading, native=True) as source:
        if (source.frame.height, source.frame.width) != (result.frame.height, result.frame.width):
            raise OutputError(
                what=f"{path} cannot be measured", why="it is no longer the image that was segmented", mend="use --overwrite"
            )
        if result.frame.placement is not None:
            return Extras(columns=measure_volume(result, source, folder))
        overview = source.overview(OVERVIEW_PX)
        is_stained = len(source.bands) == 3 and image_io.shows_brightfield(source, overview)
        columns = measure(result, source, folder, white=white_of(overview) if is_stained else None)
    titles = {name: _title(name) for name in columns}
    positive = None
    if output.positive is not None:
        positive = "positive"
        columns[positive] = Rule(output.positive).apply(columns, folder)
    lookup = None
    if output.regions is not None:
        lookup = Lookup(read_regions(output.regions, result.frame), result.frame)
    return Extras(columns=columns, titles=titles, positive=positive, region=lookup)


def check_tables(output: Output) -> None:
    """Refuse areas and positivity where no table is written that would tell of them.

    Raises:
        ConfigError: They are asked for and no format takes them.
    """
    asked = {"--regions": output.regions, "--positive": output.positive}
    given = " and ".join(name for name, value in asked.items() if value is not None)
    if given and _OF_CELLS.isdisjoint(output.format):
        raise ConfigError(
            what=given + (" without a table" if output.format == ("auto",) else f" with -f {','.join(output.format)}"),
            why=f"only tables of cells tell of that: {', '.join(sorted(_OF_CELLS))}",
            mend=f"add one: -f {','.join(output.format)},cells",
        )


def check_extras(output: Output, frame: Frame) -> None:
    """Refuse areas and rules that cannot be used, before any work.

    Args:
        output: What is asked for.
        frame: The work grid.

    Raises:
        ConfigError: A rule of positivity that is none, or regions that cannot be read.
    """
    if output.positive is not None:
        Rule(output.positive)
    if output.regions is not None:
        read_regions(output.regions, frame)


def wants_extras(output: Output) -> bool:
    """True when a chosen sink takes extras, or positivity is asked for, which a count states without any table of cells."""
    return output.positive is not None or not TABLES.isdisjoint(output.format)


def _title(column: str) -> str:
    kind, _, name = column.partition("_")
    return f"{name.capitalize()} OD mean" if kind == "od" else f"{name.replace('_', ' ')} mean"
