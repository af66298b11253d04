"""What the documentation says, and what the code does, in one form."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def settings_table(record: type) -> list[tuple[str, str, str]]:
    """Name, default and meaning (empty where the code says none) of every field of a record."""
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0].body  # type: ignore[attr-defined]
    said = {
        a.target.id: b.value.value
        for a, b in zip(body, body[1:], strict=False)
        if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant)
    }
    return [(f.name, _shown(f.default), said.get(f.name, "")) for f in fields(record)]


def tables(page: str, heading: str) -> list[tuple[str, ...]]:
    """Cells of all table rows below a heading of a page, code marks taken off."""
    rows = [line.strip("| ").split(" | ") for line in section(page, heading).splitlines() if line.startswith("| ")]
    return [tuple(cell.strip().strip("`") for cell in row) for row in rows if not set("".join(row)) <= set("- |:")]


def section(page: str, heading: str) -> str:
    """Text from a heading to the next one of its level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.M | re.S)
    assert found, f"{page} has no heading {heading!r}"
    return found.group(2)


def code_blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
