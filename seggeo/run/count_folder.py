"""The tables and the page of a folder of counted slides: one row a slide, one row a failure, one file to look at."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seggeo.errors import OutputError, SeggeoError
from seggeo.files import translated
from seggeo.output.report_html import write_report
from seggeo.output.report_html_records import FolderReport, SlideFailure
from seggeo.run.count import Counted
from seggeo.run.count_record import held, is_ours, publish_page, publish_tables
from seggeo.run.naming import places
from seggeo.run.slides import Slide

COUNTS, REGIONS, ERRORS, REPORT = "counts.csv", "regions.csv", "errors.csv", "report.html"
_ERROR_COLUMNS = ("id", "path", "error", "exit", "what", "why", "fix")
_MOST_NAMED = 20
"""Slides of earlier commands that the page names."""


def check_folder(out: Path, *, overwrite: bool = False) -> None:
    """Make the folder of the results, before any work.

    Args:
        out: The folder.
        overwrite: Tables and a page that seggeo did not write may be replaced.

    Raises:
        OutputError: It is a file, or cannot be made, or holds such tables.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(
            what=f"{out} is a file", why="counts of several slides go into a folder", mend="choose a folder with -o"
        )
    with translated(out):
        out.mkdir(parents=True, exist_ok=True)
    with held(out):
        for path in (out / name for name in (COUNTS, REGIONS, ERRORS, REPORT)):
            if os.path.lexists(path) and not overwrite and not is_ours(path):
                raise OutputError(
                    what=f"{path} exists already", why="seggeo did not write it here, or it was changed since",
                    mend="move it away, choose another folder with -o, or replace it with --overwrite",
                )  # fmt: skip


def write_tables(out: Path, counted: Sequence[Counted], failures: Sequence[tuple[Slide, SeggeoError]]) -> None:
    """`counts.csv`; `regions.csv` and `errors.csv` where there are any; columns in the order they were first met.

    Rows of slides that were counted here before, and are not now, stay as long as those slides' files do.

    Raises:
        OutputError: The folder cannot be written to.
    """
    done = {one.slide.id for one in counted}
    errors = [
        {
            "id": slide.id, "path": slide.path, "error": type(error).__name__, "exit": error.exit_code, "what": error.what,
            "why": error.why, "fix": error.mend,
        }
        for slide, error in failures
    ]  # fmt: skip
    with held(out):
        rows = [*(one.row for one in counted), *_before(out / COUNTS, done)]
        regions = [*(row for one in counted for row in one.regions), *_before(out / REGIONS, done)]
        tables = {
            COUNTS: _table(rows, _columns(rows) or ["id", "path", "cells"]),
            REGIONS: _table(regions, _columns(regions)) if regions else None,
            ERRORS: _table(errors, _ERROR_COLUMNS) if errors else None,
        }
        publish_tables(out, tables)


def write_page(
    out: Path, counted: Sequence[Counted], failures: Sequence[tuple[Slide, SeggeoError]], settings: Mapping[str, str]
) -> Path:  # fmt: skip
    """`report.html`, of the slides of one command.

    Raises:
        OutputError: The folder cannot be written to.
    """
    told = {**settings, "seggeo": version("seggeo")}
    if before := [row["id"] for row in _before(out / COUNTS, {one.slide.id for one in counted})]:
        more = f" and {len(before) - _MOST_NAMED} more" if len(before) > _MOST_NAMED else ""
        told["counted before"] = f"{', '.join(before[:_MOST_NAMED])}{more} (in {COUNTS}, not on this page)"
    report = FolderReport(
        title=f"Cells of {len(counted)} slides" if len(counted) != 1 else f"Cells of {counted[0].slide.id}",
        slides=[done.report for done in counted],
        failures=[SlideFailure(name=s.id, what=e.what, why=e.why, mend=e.mend) for s, e in failures],
        settings={name: _encoded(value).decode() for name, value in told.items()},
    )
    with translated(out / REPORT), TemporaryDirectory(prefix="seggeo-") as folder:
        return publish_page(out / REPORT, write_report(report, Path(folder) / REPORT).read_bytes())


def _before(path: Path, done: Collection[str]) -> list[dict[str, str]]:
    """Rows that an earlier command wrote, of slides that are not done now and whose files are still there."""
    if not is_ours(path):
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    return [row for row in rows if row["id"] not in done and places(path.parent, row["id"], (), None).provenance.exists()]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return _encoded(text.getvalue())


def _encoded(text: str) -> bytes:
    """UTF-8; what is none in the name of a file is written as its number."""
    return text.encode(errors="backslashreplace")
