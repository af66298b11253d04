"""Whose tables are: after a write that ended, one that was cut short, and somebody's hand."""

import pytest

from seggeo.errors import OutputError
from seggeo.run.count_record import RECORD, is_ours, publish_page, publish_tables


def test_tables_are_ours_until_somebody_changes_them(tmp_path):
    publish_tables(tmp_path, {"counts.csv": b"a", "errors.csv": b"b"})
    publish_tables(tmp_path, {"counts.csv": b"c", "errors.csv": None})

    assert is_ours(tmp_path / "counts.csv")
    assert not (tmp_path / "errors.csv").exists()
    for data in (b"a", b"c\n", b""):
        (tmp_path / "counts.csv").write_bytes(data)
        assert not is_ours(tmp_path / "counts.csv")
    (tmp_path / "counts.csv").write_bytes(b"c")
    (tmp_path / RECORD).write_text("[]")
    assert not is_ours(tmp_path / "counts.csv")


def test_a_write_cut_short_leaves_tables_that_are_ours(tmp_path):
    publish_tables(tmp_path, {"counts.csv": b"old", "regions.csv": b"old"})
    (tmp_path / "errors.csv").mkdir()
    with pytest.raises(OutputError):
        publish_tables(tmp_path, {"counts.csv": b"new", "errors.csv": b"new", "regions.csv": b"new"})

    assert [(tmp_path / name).read_bytes() for name in ("counts.csv", "regions.csv")] == [b"new", b"old"]
    assert is_ours(tmp_path / "counts.csv")
    assert is_ours(tmp_path / "regions.csv")


def test_a_page_is_ours_until_somebody_changes_it(tmp_path):
    page = publish_page(tmp_path / "report.html", b"<html></html>\n")
    assert is_ours(page)
    whole = page.read_bytes()
    for other in (whole + b"x", whole.replace(b"<html>", b"<html >"), b"<html></html>\n", b""):
        page.write_bytes(other)
        assert not is_ours(page)
