"""The report is one small file that loads nothing, runs nothing and shows every name as it is."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support_results import result_of
from support_scenes import KINDS, random_scene

from seggeo.geometry import Frame, Window
from seggeo.output.density import Ratio, density_of, map_cells
from seggeo.output.report_html import write_report
from seggeo.output.report_html_pictures import outline_tile, outline_tissue
from seggeo.output.report_html_records import FolderReport, Picture, SlideFailure, SlideReport

NASTY = "<script>alert(1)</script>\"' &amp; ü"


@pytest.fixture(scope="module")
def slide():
    frame = Frame(height=300, width=400, spacing=(1, 1.0, 1.0), unit="um")
    result = result_of(random_scene(KINDS[0], 3, (300, 400)), frame)
    cells = map_cells(result)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (250, 320, 3), dtype=np.uint8)  # what JPEG packs worst
    return SlideReport(
        name=f"slide {NASTY}", count=cells.count, density=density_of(cells),
        positivity=Ratio(value=0.2, low=0.1, high=0.3, blocks=40), sizes=tuple(cells.sizes.tolist()), 
        classes={NASTY: 3, "b": 1},
        tissue=Picture.of(noise, NASTY), density_map=Picture.of(noise), suspicious=[Picture.of(noise[:150, :150], NASTY)] * 3,
        facts={NASTY: NASTY}, warnings=[NASTY], files={NASTY: f"out/{NASTY}.geojson"},
    )  # fmt: skip


def write(tmp_path, slides, **fields):
    return write_report(FolderReport(title=NASTY, slides=slides, **fields), tmp_path / "report.html").read_text("utf-8")


class Page(HTMLParser):
    """Tags, attributes and texts, with every tag closed that was opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_text_is_shown_as_it_is_and_nothing_runs_or_loads(slide, tmp_path):
    failure = SlideFailure(name=NASTY, what=NASTY, why=NASTY, mend=NASTY)
    text = write(tmp_path, [slide], failures=[failure], settings={NASTY: NASTY})
    page = Page(text)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(v.startswith("data:image/jpeg") for name, v in page.attributes if name == "src")
    assert not [v for name, v in page.attributes if name == "href" and not v.startswith(("#slide", "out/"))]
    assert "default-src 'none'" in dict(page.attributes).get("content", "") or "default-src 'none'" in text
    assert not re.search(r"https?://", text)
    assert sum(NASTY in t for t in page.texts) >= 12


def test_figures_and_pictures_are_there(slide, tmp_path):
    text = write(tmp_path, [slide])
    density = slide.density.per_mm2
    assert f"{density.low:,.0f} to {density.high:,.0f}" in text
    assert f"{slide.density.area_mm2:,.2f}" in text
    assert "20.0% (10.0% to 30.0%)" in text
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    assert len(pictures) == 5
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (320, 250)
    assert text.count("<svg") == 2


@pytest.mark.parametrize("count", [60, 120, 6000])
def test_it_stays_below_five_megabytes(slide, tmp_path, count):
    text = write(tmp_path, [replace(slide, name=f"slide {i}") for i in range(count)])
    assert len(text.encode()) < 5_000_000
    assert ("data:image/jpeg" in text) == (count < 300) or count > 300
    assert "slide 4999" in text or count < 4999


def test_slides_without_anything_known_and_empty_folders_have_a_page(tmp_path):
    assert "slide 1" in write(tmp_path, [SlideReport(name="slide 1", count=0, sizes=(0,) * 800)])
    Page(write(tmp_path, []))


def test_records_survive_json(slide, tmp_path):
    again = SlideReport.from_json(json.loads(json.dumps(slide.to_json())))
    assert write(tmp_path, [again]) == write(tmp_path, [slide])
    bare = SlideReport(name="x", count=1)
    assert SlideReport.from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_tissue_is_outlined_and_the_rest_faded():
    image = np.full((80, 100, 3), 200, np.uint8)
    mask = np.zeros((8, 10), bool)
    mask[2:6, 3:7] = True
    drawn = outline_tissue(image, mask)
    assert (drawn[40, 50] == 200).all()
    assert (drawn[5, 5] > 215).all()
    assert (drawn[20, 30:70] == drawn[20, 30]).all()
    assert tuple(drawn[20, 40]) != (200, 200, 200)


def test_cells_are_outlined_where_they_are():
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 25:40] = 1
    result = result_of(labels)
    window = Window(row=10, col=15, height=40, width=40)
    drawn = outline_tile(np.full((40, 40, 3), 90, np.uint8), result.in_window(window), window, enlarge=2)
    changed = np.argwhere((drawn != 90).any(axis=2))
    assert drawn.shape == (80, 80, 3)
    assert np.abs(changed.min(axis=0) - [20, 20]).max() <= 1
    assert np.abs(changed.max(axis=0) - [40, 50]).max() <= 1
