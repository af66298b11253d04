"""The tables and the page of a folder of counted slides: one row a slide, one row a failure, one file to look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seggeo.errors import OutputError, SeggeoError
from seggeo.files import translated
from seggeo.output.report_html import write_report
from seggeo.output.report_html_records import FolderReport, SlideFailure
from seggeo.run.count import Counted
from seggeo.run.slides import Slide
from seggeo.store import publish

COUNTS, REGIONS, ERRORS, REPORT = "counts.csv", "regions.csv", "errors.csv", "report.html"
_ERROR_COLUMNS = ("id", "path", "error", "exit", "what", "why", "fix")


def check_folder(out: Path) -> None:
    """Refuse an output that is no folder.

    Raises:
        OutputError: It is a file, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(
            what=f"{out} is a file", why="counts of several slides go into a folder", mend="choose a folder with -o"
        )
    with translated(out):
        out.mkdir(parents=True, exist_ok=True)


def write_tables(out: Path, counted: Sequence[Counted], failures: Sequence[tuple[Slide, SeggeoError]]) -> None:
    """`counts.csv`; `regions.csv` and `errors.csv` where there are any; columns in the order they were first met.

    Raises:
        OutputError: The folder cannot be written to.
    """
    rows = [done.row for done in counted]
    publish(out / COUNTS, _table(rows, _columns(rows) or ["id", "path", "cells"]))
    regions = [row for done in counted for row in done.regions]
    _publish_or_remove(out / REGIONS, regions, _columns(regions))
    errors = [
        {
            "id": slide.id, "path": slide.path, "error": type(error).__name__, "exit": error.exit_code, "what": error.what,
            "why": error.why, "fix": error.mend,
        }
        for slide, error in failures
    ]  # fmt: skip
    _publish_or_remove(out / ERRORS, errors, _ERROR_COLUMNS)


def write_page(
    out: Path, counted: Sequence[Counted], failures: Sequence[tuple[Slide, SeggeoError]], settings: Mapping[str, str]
) -> Path:  # fmt: skip
    """`report.html`.

    Raises:
        OutputError: The folder cannot be written to.
    """
    report = FolderReport(
        title=f"Cells of {len(counted)} slides" if len(counted) != 1 else f"Cells of {counted[0].slide.id}",
        slides=[done.report for done in counted],
        failures=[SlideFailure(name=s.id, what=e.what, why=e.why, mend=e.mend) for s, e in failures],
        settings={**settings, "seggeo": version("seggeo")},
    )
    return write_report(report, out / REPORT)


def _publish_or_remove(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table, or none where there is nothing to say; one of an earlier run does not stay."""
    if rows:
        publish(path, _table(rows, columns))
    else:
        path.unlink(missing_ok=True)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return text.getvalue().encode()
