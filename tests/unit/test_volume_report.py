"""The report of a volume: its figures are those of the table, every text is shown as it is, and nothing is loaded."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from support_volume import blobs, placement, volume_of

from seggeo.geometry import Frame
from seggeo.output.cells_table import Extras
from seggeo.output.montage import draw_montage
from seggeo.output.volume_objects import iter_rows, read_rows, write_objects
from seggeo.output.volume_report import VolumeSummary, slice_curve, write_volume_report
from seggeo.protocols import SinkOptions

EVIL = '<script>alert("x")</script>&'


def result_of(labels, **fields):
    depth, height, width = labels.shape
    linking = fields.pop("linking", {})
    frame = Frame(depth=depth, height=height, width=width, placement=placement((2.0, 1.0, 1.0)), **{"unit": "um", **fields})
    return volume_of(labels, frame, linking=linking, classes=(EVIL,))


def report(result, path, montage=None, rows=None, **fields):
    summary = VolumeSummary(**{"title": "stack.tif", **fields})
    return write_volume_report(result, path, rows=rows or iter_rows(result), montage=montage, summary=summary).read_text()


def texts(page):
    found = []
    parser = HTMLParser()
    parser.handle_data = found.append
    parser.feed(page)
    return [text.strip() for text in found if text.strip()]


def test_every_text_is_shown_as_it_is_and_nothing_runs_or_loads(tmp_path):
    labels = blobs(0, (6, 30, 30), 9)
    montage = draw_montage(result_of(labels), lambda z: np.zeros((30, 30, 3), np.uint8), tmp_path / "m.png")
    said = {"title": EVIL, "facts": {EVIL: EVIL}, "settings": {EVIL: EVIL}, "warnings": [EVIL], "files": {EVIL: EVIL}}
    page = report(result_of(labels), tmp_path / "r.html", montage, **said)

    assert "<script" not in page
    assert texts(page).count(EVIL) >= 8
    assert "default-src 'none'; img-src data:" in page
    assert re.findall(r'\b(?:src|href)="(?!data:image/jpeg;base64,)([^"]*)', page) == [
        "%3Cscript%3Ealert%28%22x%22%29%3C/script%3E%26"
    ]
    assert re.search(r'src="data:image/jpeg;base64,[A-Za-z0-9+/=]{1000,}"', page)


def test_figures_are_those_of_the_table(tmp_path):
    labels = blobs(2, (9, 40, 40), 25)
    labels[3:7, :5, :5] = 26
    labels[4] = 0  # a slice that all objects miss
    events = [{"kind": "merge" if i % 3 else "branch", "z": i, "id": i + 1, "others": [i + 2]} for i in range(60)]
    linking = {"pieces": 1234, "bridged": 3, "parted": 7, "events": events}
    result = result_of(labels, linking=linking)
    table = write_objects(result, tmp_path / "o.csv", SinkOptions(), extras=Extras(columns={"mean_a": np.zeros(26)}))
    page = report(result, tmp_path / "r.html", rows=read_rows(table))
    (columns,) = iter_rows(result)
    said = texts(page)

    def beside(label):
        return said[said.index(label) + 1]

    assert said[said.index("objects") - 1] == str(len(columns["id"]))
    assert said[said.index("median volume, µm³") - 1] == f"{np.median(columns['volume_um3']):,.0f}"
    assert said[said.index("of 9 slices hold one") - 1] == str(sum(labels[z].any() for z in range(9)))
    missed = columns["missed_slices"]
    assert missed.sum() > 0
    assert beside("objects with missed slices") == f"{(missed > 0).sum()} ({missed.sum()} slices)"
    assert beside("objects in one slice only") == str((columns["slices"] == 1).sum())
    assert beside("cross-sections in slices") == "1,234"
    assert (beside("places where one becomes several"), beside("places where several become one")) == ("20", "40")
    assert page.count("<tr><td>merge</td>") + page.count("<tr><td>branch</td>") == 50
    assert "The first 50 of 60." in said
    first = said[said.index("volume, µm³", said.index("Largest")) + 2 :]
    assert int(first[0]) == columns["id"][np.argmax(columns["volume_um3"])]
    assert report(result, tmp_path / "again.html") == page


def test_charts_are_drawn_within_their_frame(tmp_path):
    rng = np.random.default_rng(0)
    for counts in (np.array([5]), rng.integers(0, 90, 33), rng.integers(0, 9, 5000), np.zeros(7, int)):
        chart = ElementTree.fromstring(slice_curve(counts, ("objects", "slice")))
        steps = re.findall(r"H([\d.]+)V([\d.]+)H([\d.]+)", chart.find("path").get("d"))
        assert len(steps) <= 340
        assert float(steps[-1][2]) == pytest.approx(340, abs=0.1)
        assert min(float(y) for _, y, _ in steps) == (18 if counts.any() else 118)


@pytest.mark.parametrize("fields", [{}, {"unit": "px"}, {"unit": "um", "is_series": True}])
def test_series_unknown_units_and_nothing_found_have_a_page(tmp_path, fields):
    labels = blobs(3, (5, 20, 20), 4)
    page = report(result_of(labels, **fields), tmp_path / "a.html")
    empty = report(result_of(labels * 0, **fields), tmp_path / "b.html")

    assert ("tracks" if "is_series" in fields else "objects") in texts(page)
    assert f"median {'area, µm²' if 'is_series' in fields else 'volume, voxel' if fields else 'volume, µm³'}" in texts(page)
    assert "Largest" in texts(page)
    assert "Largest" not in texts(empty)
