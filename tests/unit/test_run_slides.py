"""Which slides a command line means."""

import pytest

from seggeo.errors import ConfigError, SourceError
from seggeo.run.slides import Slide, find_slides, slide_id


@pytest.fixture
def folder(tmp_path):
    for name in ("b.svs", "a.ome.tif", "notes.txt", ".hidden.tif", "c d.PNG"):
        (tmp_path / name).write_text("")
    (tmp_path / "zarr.zarr").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.ndpi").write_text("")
    return tmp_path


def ids(inputs):
    return [slide.id for slide in find_slides(list(map(str, inputs)))]


def test_folders_globs_and_names(folder):
    assert ids([folder]) == ["a", "b", "c d", "zarr"]
    assert ids([folder / "*.svs", folder / "b.svs", folder]) == ["b", "a", "c d", "zarr"], "repeats are left out"
    assert ids([folder / "**" / "*.ndpi"]) == ["e"]
    assert ids([folder / "notes.txt", folder / "gone.svs"]) == ["notes", "gone"], "what is named is tried"


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_manifest_says_more(folder, sign):
    lines = [
        ["path", "id", "mpp", "patient", "note"],
        ["b.svs", "first", "0.25", "P 1", "x"],
        ["sub/e.ndpi", "", "", "P2", ""],
        [""] * 5,
    ]
    (folder / "m.csv").write_text("\ufeff" + "\r\n".join(sign.join(line) for line in lines), encoding="utf-8")

    slides = find_slides([str(folder / "m.csv")])

    assert slides == [
        Slide(path=str(folder / "b.svs"), id="first", mpp="0.25", facts={"patient": "P 1", "note": "x"}),
        Slide(path=str(folder / "sub/e.ndpi"), id="e", mpp="", facts={"patient": "P2", "note": ""}),
    ]


def test_two_slides_of_one_name_need_ids(folder):
    (folder / "sub" / "B.svs").write_text("")
    with pytest.raises(ConfigError, match="2 slides are called b"):
        ids([folder / "b.svs", folder / "sub" / "B.svs"])
    (folder / "m.csv").write_text("path,id\nb.svs,one\nsub/B.svs,two\n")
    assert ids([folder / "m.csv"]) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no column path"),
        ("file,mpp\na,1\n", "no column path"),
        ("path,mpp\n", "lists no slides"),
        ("path,mpp\n,3\n", "line 2"),
        ("path,mpp,mpp\na.svs,1,2\n", "more than once: mpp"),
        ("path,cells,ward,per_mm2\na.svs,1,2,3\n", "fills itself: cells, per_mm2"),
        ("path,cells_Tumor\na.svs,1\n", "fills itself: cells_Tumor"),
        ("path,model\na.svs,mine\n", "fills itself: model"),
        ("path,id\nb.svs,one\nb.svs,ONE\n", "lines 2 and 3 .* ONE"),
        ("path,mpp\nb.svs,0.5\n\nb.svs,0.25\n", "lines 2 and 4 .* b\n"),
        *((f"path,id\nb.svs,{name}\n", "line 2 .* has the id") for name in ("../../x", "a/b", "a\\b", ".", "..", "a\x01b")),
    ],
)
def test_manifests_that_are_none(folder, text, why):
    (folder / "m.csv").write_text(text)
    with pytest.raises(ConfigError, match=why):
        find_slides([str(folder / "m.csv")])


def test_nothing_to_count(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no slides"):
        ids([folder / "empty"])
    with pytest.raises(ConfigError, match="matches no file"):
        ids([folder / "*.mrxs"])
    with pytest.raises(SourceError, match="cannot be read"):
        ids([folder / "gone.csv"])
    (folder / "bad.csv").write_bytes(b"path\n\xff\xfe\x00\n")
    with pytest.raises(SourceError, match="cannot be read"):
        ids([folder / "bad.csv"])


def test_lines_of_one_file_are_slides_and_a_file_found_twice_is_one(folder):
    (folder / "m.csv").write_text("path,id,core\nb.svs,x1,A\nb.svs,x2,B\n,,\n")
    (folder / "n.csv").write_text("path,id,,\nsub/e.ndpi,e2,,\n")

    slides = find_slides([str(folder), str(folder / "m.csv"), str(folder / "b.svs"), str(folder / "m.csv")])

    assert [slide.id for slide in slides] == ["a", "c d", "zarr", "x1", "x2"], "the manifest says more than the folder"
    assert [slide.facts["core"] for slide in slides[3:]] == ["A", "B"]
    assert ids([folder / "n.csv"]) == ["e2"], "columns without a name are not two of one"
    (folder / "o.csv").write_text("path,id,core\nb.svs,x1,C\n")
    with pytest.raises(ConfigError, match="2 slides are called x1"):
        ids([folder / "m.csv", folder / "o.csv"])


def test_ids_of_odd_file_names_can_be_written_and_told_apart():
    odd = [slide_id(name) for name in ("a\nb.tif", "a\tb.tif", "a\udcffb.tif", "a_b.tif")]
    assert len(set(odd)) == 4
    assert all(name.isprintable() and name.startswith("a_b") for name in odd)
