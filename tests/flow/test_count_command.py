"""`seggeo count-cells`: real slides and broken ones, counts that are known, tables, regions, and what is refused."""

import csv
import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage import draw
from support_annotations import SHARED
from support_flow import call, has_escapes, seggeo, succeed
from support_slides import write_ome

from seggeo import count_cells
from seggeo.run.slides import is_measured
from seggeo.run.suspects import notice as seggeo_notice

SMALL = (
    "--model",
    "threshold",
    "--set",
    "split=false",
    "--tile",
    "256",
    "--overlap",
    "64",
    "--workers",
    "1",
    "--device",
    "cpu",
    "--no-preview",
)
MPP = 0.5


def cells(seed, shape=(700, 900), step=40):
    """Labels of discs on a lattice that is shaken: `(h, w)`, and the list of their centres `(row, col)`."""
    rng = np.random.default_rng(seed)
    labels, centres = np.zeros(shape, np.int32), []
    for row in range(step, shape[0] - step // 2, step):
        for col in range(step, shape[1] - step // 2, step):
            centre = np.array([row, col]) + rng.uniform(-8, 8, 2)
            labels[draw.disk(centre, rng.uniform(5, 9), shape=shape)] = len(centres) + 1
            centres.append(centre)
    return labels, np.array(centres)


def slide(path, seed=0, mpp=MPP, names=("DAPI", "CD3")):
    """An OME-TIFF with nuclei in DAPI, every third of them with CD3."""
    labels, centres = cells(seed)
    rng = np.random.default_rng(seed)
    dapi = np.where(labels > 0, 900, 100) + rng.normal(0, 10, labels.shape)
    cd3 = np.where((labels > 0) & (labels % 3 == 0), 500, 50) + rng.normal(0, 5, labels.shape)
    write_ome(path, np.stack([dapi, cd3])[: len(names)].clip(0).astype(np.uint16), names=names, mpp=mpp)
    return labels, centres


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_counts_densities_and_measures_are_the_true_ones(tmp_path):
    labels, centres = slide(tmp_path / "a.ome.tif")
    job = ("count-cells", "a.ome.tif", "-o", "out", *SMALL, "-f", "qupath,cells,cells-csv,ome-tiff", "--json")
    ran = succeed(*job, "--preview", "--tissue", "none", "--positive", "cd3>200", cwd=tmp_path)
    out = tmp_path / "out"

    (row,) = rows_of(out / "counts.csv")
    area_mm2 = labels.size * MPP**2 / 1e6
    assert (row["id"], int(row["cells"]), row["mpp"]) == ("a", labels.max(), "0.5")
    assert {name for name in row if not is_measured(name)} == {"id", "path", "mpp"}, "what no manifest may bring is listed"
    assert float(row["tissue_mm2"]) == pytest.approx(area_mm2, rel=1e-4)
    assert float(row["per_mm2"]) == pytest.approx(labels.max() / area_mm2, rel=1e-3)
    assert float(row["per_mm2_low"]) < float(row["per_mm2"]) < float(row["per_mm2_high"])
    assert float(row["positive"]) == pytest.approx((np.arange(1, labels.max() + 1) % 3 == 0).mean(), abs=0.002)
    table = pd.read_parquet(out / "a_cells.parquet")
    number = labels[table.y_px.round().astype(int), table.x_px.round().astype(int)]
    assert sorted(number) == list(range(1, labels.max() + 1))
    np.testing.assert_allclose(table[["y_px", "x_px"]].to_numpy() - 0.5, centres[number - 1], atol=1.0)
    np.testing.assert_allclose(table.area_um2, np.bincount(labels.ravel())[number] * MPP**2, rtol=0.1)
    np.testing.assert_array_equal(table.positive, number % 3 == 0)
    assert table.mean_dapi.between(850, 950).all()
    assert len(pd.read_csv(out / "a_cells.csv")) == len(table)
    qupath = json.loads(gzip.decompress((out / "a_cells.geojson.gz").read_bytes()))
    assert len(qupath["features"]) == len(table)
    assert {f["properties"]["objectType"] for f in qupath["features"]} == {"detection"}
    assert tifffile.imread(out / "a_labels.ome.tif").max() == labels.max()
    assert (out / "report.html").stat().st_size < 5e6
    assert not (out / "errors.csv").exists()
    assert ran.results[0]["cells"] == labels.max()
    assert not has_escapes(ran.err)

    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    again = succeed(*job, "--preview", "--tissue", "none", "--positive", "cd3>200", cwd=tmp_path)
    assert again.results == ran.results
    changed = {name for name, data in before.items() if (out / name).read_bytes() != data}
    assert changed <= {"report.html"}, "it was done already"
    other = succeed(*job, "--tissue", "none", "--positive", "cd3>1e9", cwd=tmp_path)
    assert other.results[0]["positive"] == 0


@pytest.mark.parametrize("tile", [128, 512])
def test_tiles_change_no_count_on_a_ramp_of_light(tmp_path, tile):
    labels, _ = cells(3)
    ramp = np.linspace(0.5, 1.5, labels.shape[1])
    image = (np.where(labels > 0, 3000, 200) * ramp).astype(np.uint16)
    write_ome(tmp_path / "ramp.ome.tif", image[None], names=("Hoechst",))
    job = (
        "count-cells",
        "ramp.ome.tif",
        "-o",
        "out",
        *SMALL[:4],
        "--workers",
        "1",
        "--tile",
        tile,
        "--overlap",
        "64",
        "--json",
    )

    assert succeed(*map(str, job), cwd=tmp_path).results[0]["cells"] == labels.max()


def test_a_bad_slide_does_not_cost_the_others(tmp_path):
    folder = tmp_path / "my slides"
    folder.mkdir()
    truth = [slide(folder / f"s{i}.ome.tif", seed=i)[0].max() for i in range(2)]
    whole = (folder / "s0.ome.tif").read_bytes()
    (folder / "empty.tif").write_bytes(b"")
    (folder / "page.svs").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "short.ome.tif").write_bytes(whole[: len(whole) // 2])
    slide(folder / "unknown.ome.tif", mpp=None)
    (folder / "notes.txt").write_text("not a slide")

    ran = call("count-cells", "my slides", "-o", "out dir", *SMALL, cwd=tmp_path)

    assert ran.code == 4, ran.err
    assert [int(row["cells"]) for row in rows_of(tmp_path / "out dir" / "counts.csv")] == truth
    errors = {row["id"]: row for row in rows_of(tmp_path / "out dir" / "errors.csv")}
    assert set(errors) == {"empty", "page", "short", "unknown"}
    assert {row["exit"] for row in errors.values()} == {"3"}
    assert all(row["what"] and row["why"] and row["fix"] for row in errors.values())
    assert "--mpp" in errors["unknown"]["fix"]
    assert "4 of 6 slides failed" in ran.err
    assert "Traceback" not in ran.err
    page = (tmp_path / "out dir" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("s0", "s1", *errors))

    (folder / "m.csv").write_text(
        "path,id,mpp,patient\ns0.ome.tif,first,,P1\nunknown.ome.tif,second,0.25,P2\nempty.tif,third,x,P3\n"
    )
    mended = call("count-cells", "my slides/m.csv", "-o", "again", *SMALL, cwd=tmp_path)
    rows = rows_of(tmp_path / "again" / "counts.csv")
    assert mended.code == 4
    assert [(row["id"], row["mpp"], row["patient"]) for row in rows] == [("first", "0.5", "P1"), ("second", "0.25", "P2")]
    assert rows_of(tmp_path / "again" / "errors.csv")[0]["error"] == "ConfigError"


def test_regions_are_counted_by_name_of_their_number(tmp_path):
    _, centres = slide(tmp_path / "a.ome.tif")
    left = {"type": "Polygon", "coordinates": [[[0, 0], [450, 0], [450, 700], [0, 700], [0, 0]]]}
    inner = {"type": "Polygon", "coordinates": [[[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]]}
    features = [{"type": "Feature", "geometry": g, "properties": {"name": n}} for g, n in ((left, "Left"), (inner, "Inner"))]
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    succeed("count-cells", "a.ome.tif", "-o", "out", *SMALL, "-f", "cells", "--regions", "r.geojson", cwd=tmp_path)

    table = pd.read_parquet(tmp_path / "out" / "a_cells.parquet")
    row, col = centres.T + 0.5
    inside = ((row > 100) & (row < 300) & (col > 100) & (col < 300)).sum()
    assert abs((table.region == 2).sum() - inside) <= 2
    assert abs((table.region == 1).sum() - ((col < 450).sum() - inside)) <= 2
    regions = rows_of(tmp_path / "out" / "regions.csv")
    assert [r["region"] for r in regions] == ["Left", "Inner"]
    assert [int(r["cells"]) for r in regions] == [(table.region == 1).sum(), (table.region == 2).sum()]
    assert float(regions[1]["area_mm2"]) == pytest.approx(200 * 200 * MPP**2 / 1e6)
    assert float(regions[0]["area_mm2"]) == pytest.approx((450 * 700 - 200 * 200) * MPP**2 / 1e6)

    (tmp_path / "r.geojson").write_text(json.dumps(features[1]))  # the same name, other regions
    succeed("count-cells", "a.ome.tif", "-o", "out", *SMALL, "-f", "cells", "--regions", "r.geojson", cwd=tmp_path)
    assert [r["region"] for r in rows_of(tmp_path / "out" / "regions.csv")] == ["Inner"]


def test_positivity_needs_no_table_of_cells(tmp_path):
    slide(tmp_path / "a.ome.tif")
    ran = succeed("count-cells", "a.ome.tif", "-o", "out", *SMALL, "-f", "cog", "--positive", "cd3>200", "--json", cwd=tmp_path)
    assert ran.results[0]["positive"] == pytest.approx(1 / 3, abs=0.01)


def test_pixels_are_counted_where_nobody_knows_better(tmp_path):
    labels, _ = slide(tmp_path / "a.ome.tif", mpp=None)
    refused = call("count-cells", "a.ome.tif", "-o", "out", *SMALL, cwd=tmp_path)
    assert refused.code == 3
    assert refused.refusal()[0] == "error: a.ome.tif does not say how large its pixels are"

    ran = succeed("count-cells", "a.ome.tif", "-o", "out", *SMALL, "--pixels", "--json", cwd=tmp_path)
    assert (ran.results[0]["cells"], ran.results[0]["per_mm2"]) == (labels.max(), None)
    assert {name for name in ran.results[0] if not is_measured(name)} == {"id", "path", "mpp"}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("gone.svs", "-o", "out"), 3, "gone.svs"),
        (("*.svs", "-o", "out"), 2, "matches no file"),
        (("nothing", "-o", "out"), 2, "holds no slides"),
        (("a.ome.tif", "-o", "a.ome.tif"), 5, "is a file"),
        (("a.ome.tif", "-o", "out", "--positive", "dab"), 2, "--positive"),
        (("a.ome.tif", "-o", "out", "--positive", "dab>1"), 2, "has no dab"),
        (("a.ome.tif", "-o", "out", "--channel", "Cy5"), 2, "Cy5"),
        (("a.ome.tif", "-o", "out", "--tissue", "gone.png"), 2, "gone.png"),
        (("a.ome.tif", "-o", "out", "--regions", "gone.geojson"), 2, "gone.geojson"),
        (("a.ome.tif", "-o", "out", "--model", "yolo"), 2, "yolo"),
        (("a.ome.tif", "-o", "out", "-f", "xlsx"), 2, "xlsx"),
    ],
)
def test_refusals(tmp_path, words, code, text):
    slide(tmp_path / "a.ome.tif")
    (tmp_path / "nothing").mkdir()
    model = () if "--model" in words else SMALL[:4]
    ran = call("count-cells", *words, *model, "--workers", "1", cwd=tmp_path)

    assert ran.code == code, ran.err
    assert text in ran.err
    assert "Traceback" not in ran.err


def test_from_python_and_whatever_happens_to_one_slide(tmp_path, monkeypatch):
    truth = [slide(tmp_path / f"s{i}.ome.tif", seed=i)[0].max() for i in range(2)]
    monkeypatch.setattr("seggeo.run.count.notice", _failing_once(seggeo_notice))
    how = {
        "model": "threshold", "set": {"split": False}, "tile": 256, "overlap": 64, "workers": 1, "format": ("cells",),
        "preview": False,
    }  # fmt: skip

    done = count_cells(tmp_path, tmp_path / "out", **how)

    assert [row["cells"] for row in done["counts"]] == truth[1:]
    assert list(done["errors"]) == ["s0"]
    assert "RuntimeError: a bolt from the blue" in done["errors"]["s0"]

    again = count_cells(tmp_path, tmp_path / "out", **how)
    assert [row["cells"] for row in again["counts"]] == truth
    assert again["errors"] == {}


def _failing_once(function):
    calls = []

    def wrapped(*args):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("a bolt from the blue")
        return function(*args)

    return wrapped


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
@pytest.mark.slow
def test_a_real_slide_and_five_broken_copies(tmp_path):
    source = SHARED / "wsi" / "CMU-1-Small-Region.svs"
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(source, folder / "good.svs")
    data = source.read_bytes()
    (folder / "truncated.svs").write_bytes(data[: len(data) // 3])
    (folder / "zero.svs").write_bytes(b"")
    (folder / "html.svs").write_text("<html>")
    shutil.copy(source, folder / "locked.svs")
    shutil.copy(source, folder / "mpp.svs")
    names = ("good", "truncated", "zero", "html", "locked", "mpp")
    lines = [f"{name}.svs,{name},{'-3' if name == 'mpp' else ''}" for name in names]
    (folder / "all.csv").write_text("path,id,mpp\n" + "\n".join(lines))
    (folder / "locked.svs").unlink()
    (folder / "locked.svs").mkdir()  # root reads what it may not; a folder cannot be read by anyone

    ran = seggeo("count-cells", "slides/all.csv", "-o", "out", "--device", "cpu", cwd=tmp_path, timeout=900)

    assert ran.code == 4, ran.err
    assert [row["id"] for row in rows_of(tmp_path / "out" / "counts.csv")] == ["good"]
    assert {row["id"] for row in rows_of(tmp_path / "out" / "errors.csv")} == set(names) - {"good"}
