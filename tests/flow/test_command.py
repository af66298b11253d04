"""The command as people and scripts use it: plans, inputs, names, going on, streams."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from support_flow import (
    COMMAND,
    ORACLE,
    PLAIN,
    SLOW,
    SMALL,
    below,
    call,
    clean_environment,
    digests,
    has_escapes,
    label_raster,
    scene,
    seggeo,
    succeed,
    write_labels,
    write_model,
    write_picture,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one small picture."""
    write_picture(tmp_path / "scene.tif", scene("discs", 5, (200, 220)))
    return tmp_path


def test_the_real_program_in_a_process_of_its_own(folder: Path):
    ran = seggeo("segment", "scene.tif", "--json", *PLAIN, cwd=folder)

    assert ran.code == 0, ran.err
    (summary,) = ran.results
    assert summary["objects"] > 3
    assert (folder / summary["outputs"]["gpkg"]).exists()
    assert not has_escapes(ran.err)
    assert "objects from" in ran.err


def test_a_dry_run_shows_the_plan_and_makes_nothing(folder: Path):
    before = below(folder)

    ran = succeed("segment", "scene.tif", "--dry-run", "-o", "new/folder", *PLAIN, cwd=folder)

    assert below(folder) == before
    assert "4 tiles of 128 px, overlap 32 px" in ran.out
    assert "would write new/folder/scene_objects.gpkg" in ran.out
    assert "tile = 128  (--tile)" in ran.out
    assert "match_iou = 0.3  (default)" in ran.out


def test_a_dry_run_in_json_has_every_setting_with_its_origin(folder: Path):
    from seggeo.cli.options import defaults

    (plan,) = succeed("segment", "scene.tif", "--dry-run", "--json", *PLAIN, cwd=folder).results

    assert set(plan["settings"]) == set(defaults())
    assert plan["tiles"] == 4
    assert plan["settings"]["set"]["value"]["level"] > 0


def test_option_beats_variable_beats_file_beats_default(folder: Path):
    (folder / "job.toml").write_text(
        'tile = 64\noverlap = 16\nmatch-iou = 0.4\nmin_area = 5\nformat = ["cog", "fgb"]\n[set]\nsmooth = 1.0\nneck = 0.5\n'
    )
    command = (
        "segment",
        "scene.tif",
        "--config",
        "job.toml",
        "--tile",
        "100",
        "--set",
        "neck=0.7",
        "--dry-run",
        "--json",
        *PLAIN[:2],
    )

    ran = succeed(*command, cwd=folder, SEGGEO_TILE="80", SEGGEO_OVERLAP="20", SEGGEO_PREVIEW="false")

    settings = ran.results[0]["settings"]
    chosen = {name: (entry["value"], entry["from"]) for name, entry in settings.items()}
    assert chosen["tile"] == (100, "--tile")
    assert chosen["overlap"] == (20, "SEGGEO_OVERLAP")
    assert chosen["preview"] == (False, "SEGGEO_PREVIEW")
    assert chosen["match_iou"] == (0.4, "job.toml")
    assert chosen["min_area"] == (5, "job.toml")
    assert chosen["format"] == (["cog", "fgb"], "job.toml")
    assert chosen["min_score"] == (0.0, "default")
    assert chosen["set"][0]["smooth"] == 1.0
    assert chosen["set"][0]["neck"] == 0.7


def test_several_inputs_globs_and_repeats(folder: Path):
    shutil.copy(folder / "scene.tif", folder / "tile_1.tif")
    shutil.copy(folder / "scene.tif", folder / "tile_2.tif")
    os.symlink("tile_1.tif", folder / "same.tif")

    ran = succeed("segment", "tile_*.tif", "./tile_1.tif", "same.tif", "-o", "out", "--json", *PLAIN, cwd=folder)

    assert [r["input"] for r in ran.results] == ["tile_1.tif", "tile_2.tif"]
    assert {"tile_1_objects.gpkg", "tile_2_objects.gpkg"} <= below(folder / "out")


def test_inputs_of_one_name_keep_apart(folder: Path):
    for name in ("a", "b"):
        (folder / name).mkdir()
        shutil.copy(folder / "scene.tif", folder / name / "scene.tif")

    ran = succeed("segment", "a/scene.tif", "b/scene.tif", "-o", "out", "--work", "w", "--json", *PLAIN, cwd=folder)

    assert len({r["outputs"]["gpkg"] for r in ran.results}) == 2
    assert len({r["work"] for r in ran.results}) == 2


def test_one_bad_input_does_not_stop_the_good_ones(folder: Path):
    shutil.copy(folder / "scene.tif", folder / "other.tif")
    (folder / "bad.tif").write_text("<html>not found</html>")
    command = ("segment", "scene.tif", "bad.tif", "other.tif", "-o", "out", "--json", *PLAIN)

    ran = call(*command, cwd=folder)

    assert ran.code == 4
    assert [("error" in r, r["input"]) for r in ran.results] == [(False, "scene.tif"), (True, "bad.tif"), (False, "other.tif")]
    assert ran.results[1]["error"]["exit"] == 3
    assert ran.err.count("error: ") == 2
    assert {"scene_objects.gpkg", "other_objects.gpkg"} <= below(folder / "out")
    assert call(*command, "--allow-partial", cwd=folder).code == 0


def test_a_pattern_without_files_is_a_mistake(folder: Path):
    ran = call("segment", "*.nothing", cwd=folder)

    assert ran.code == 2
    assert "*.nothing" in ran.refusal()[0]


@pytest.mark.parametrize(
    "name", ["with space.tif", "größe 測試.tif", "quote'\".tif", "[1].tif", "-dash.tif", "a;b&c!d.tif", "é" * 120 + ".tif"]
)
def test_odd_names(folder: Path, name: str):
    (folder / "scene.tif").rename(folder / name)

    ran = succeed("segment", "-o", "out;put!", "-f", "gpkg,fgb,cog", "--json", *PLAIN, "--", name, cwd=folder)

    (summary,) = ran.results
    assert all((folder / path).exists() for path in summary["outputs"].values())
    assert summary["input"] == name


def test_what_exists_is_kept_unless_told_otherwise(folder: Path):
    mine = folder / "scene_objects.gpkg"
    mine.write_text("mine")

    ran = call("segment", "scene.tif", *PLAIN, cwd=folder)

    assert ran.code == 5
    assert "--overwrite" in ran.refusal()[2]
    assert mine.read_text() == "mine"
    assert below(folder) == {"scene.tif", "scene_objects.gpkg"}
    succeed("segment", "scene.tif", "--overwrite", *PLAIN, cwd=folder)
    assert mine.stat().st_size > 1000


@pytest.mark.parametrize("name", ["scene_preview.png", "scene_provenance.json"])
def test_the_company_of_an_output_is_not_overwritten_either(folder: Path, name: str):
    (folder / name).write_text("mine")

    ran = call("segment", "scene.tif", *PLAIN[:-1], cwd=folder)

    assert ran.code == 5
    assert name in ran.refusal()[0]
    assert (folder / name).read_text() == "mine"


def test_the_same_job_again_predicts_nothing(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 5, (200, 220)))
    write_model(tmp_path, SLOW, "slow.py")
    log = tmp_path / "log"
    command = ("segment", "scene.tif", "--model", "slow.py:Slow", "-f", "gpkg,cog", "-o", "out", "--json", *SMALL)
    first = succeed(*command, cwd=tmp_path, TILE_LOG=str(log))
    made, tiles = digests(tmp_path / "out"), log.read_text()

    again = succeed(*command, cwd=tmp_path, TILE_LOG=str(log))

    assert log.read_text() == tiles
    assert digests(tmp_path / "out") == made
    assert again.results == first.results
    assert "done already" in again.err


def test_the_summary_of_a_job_done_already_calls_files_as_this_call_does(folder: Path):
    succeed("segment", "scene.tif", "-o", "out", *PLAIN, cwd=folder)

    ran = succeed("segment", "../scene.tif", "-o", ".", "--json", *PLAIN, cwd=folder / "out")

    assert ran.results[0]["outputs"] == {"gpkg": "scene_objects.gpkg"}


def test_another_rule_of_merging_or_another_format_predicts_nothing(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 5, (200, 220)))
    write_model(tmp_path, SLOW, "slow.py")
    log = tmp_path / "log"
    command = ("segment", "scene.tif", "--model", "slow.py:Slow", "--json", *SMALL)
    (first,) = succeed(*command, cwd=tmp_path, TILE_LOG=str(log)).results
    tiles = log.read_text()

    (fewer,) = succeed(*command, "--min-area", "300", "--overwrite", cwd=tmp_path, TILE_LOG=str(log)).results
    succeed(*command, "--min-area", "300", "-f", "cog", cwd=tmp_path, TILE_LOG=str(log))

    assert log.read_text() == tiles
    assert 0 < fewer["objects"] < first["objects"]
    assert first["objects"] == fewer["objects"] + fewer["readings"]["filtered"]
    assert len(set(label_raster(tmp_path / "scene_labels.tif").ravel())) - 1 == fewer["objects"]


def test_other_settings_need_leave_to_replace(folder: Path):
    succeed("segment", "scene.tif", *PLAIN, cwd=folder)
    made = digests(folder)

    ran = call("segment", "scene.tif", *PLAIN, "--set", "smooth=2", cwd=folder)

    assert ran.code == 5
    ran.refusal()
    assert digests(folder) == made
    other = call("segment", "scene.tif", *PLAIN, "--set", "smooth=2", "-o", "other.gpkg", "--work", "scene.seggeo", cwd=folder)
    assert other.code == 5
    assert "smooth was 0.5 there and is 2" in other.refusal()[1]
    succeed("segment", "scene.tif", *PLAIN, "--set", "smooth=2", "--overwrite", cwd=folder)


def test_a_folder_that_is_not_a_run_folder_is_left_alone(folder: Path):
    (folder / "w").mkdir()
    (folder / "w" / "thesis.tex").write_text("mine")

    ran = call("segment", "scene.tif", *PLAIN, "--work", "w", "--overwrite", cwd=folder)

    assert ran.code == 5
    ran.refusal()
    assert below(folder) == {"scene.tif", "w", "w/thesis.tex"}


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
@pytest.mark.parametrize("out", ["scene.tif", "./link.tif"])
def test_the_input_is_never_the_output(folder: Path, out: str, extra: list[str]):
    os.symlink("scene.tif", folder / "link.tif")
    made = digests(folder)

    ran = call("segment", "scene.tif", "-o", out, "-f", "cog", *PLAIN, *extra, cwd=folder)

    assert ran.code == 5
    assert "input" in "".join(ran.refusal())
    assert digests(folder) == made


def test_the_preview_never_lies_on_the_input(folder: Path):
    write_picture(folder / "x_preview.png", scene("discs", 5, (100, 100)), driver="PNG", compress=None, crs=None)
    made = digests(folder)

    ran = call("segment", "x_preview.png", *PLAIN[:2], "-o", "x.gpkg", "--overwrite", cwd=folder)

    assert ran.code == 5
    ran.refusal()
    assert digests(folder) == made


@pytest.mark.parametrize("out", ["scene.tif/below", "scene.tif/x.gpkg"])
def test_a_place_that_cannot_be_written(folder: Path, out: str):
    ran = call("segment", "scene.tif", "-o", out, *PLAIN, cwd=folder)

    assert ran.code == 5
    ran.refusal()
    assert below(folder) == {"scene.tif"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(folder: Path):
    (folder / "out").mkdir()
    (folder / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)

    ran = call("segment", "scene.tif", "-o", "out", *PLAIN, cwd=folder)

    assert ran.code == 5
    ran.refusal()


def test_what_a_model_prints_does_not_reach_standard_output(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 5, (200, 220)))
    write_model(tmp_path, ORACLE.replace("        return", '        print("chatter")\n        return'))

    ran = seggeo("segment", "scene.tif", "--model", "oracle.py:Oracle", "--json", *SMALL, "--workers", "2", cwd=tmp_path)

    assert ran.code == 0, ran.err
    assert len(ran.results) == 1
    assert "chatter" in ran.err


@pytest.mark.parametrize("stdin", [False, True])
def test_a_plain_script_may_use_several_processes(folder: Path, stdin: bool):
    """Without the `if __name__ == "__main__"` that multiprocessing asks for: nobody would think of it."""
    settings = 'model="threshold", tile=64, workers=2, preview=False'
    script = f'import seggeo\nprint(seggeo.segment("scene.tif", "out", {settings})["objects"])\n'
    (folder / "plain.py").write_text(script)
    python = COMMAND.with_name("python")

    done = subprocess.run(
        [python, "-"] if stdin else [python, "plain.py"], input=script.encode() if stdin else None,
        cwd=folder, env=clean_environment(), capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 3


def test_verbose_tells_more(folder: Path):
    little = succeed("segment", "scene.tif", *PLAIN, "-o", "a", cwd=folder).err
    more = succeed("segment", "scene.tif", *PLAIN, "-o", "b", "-v", cwd=folder).err

    assert "b/scene.seggeo" in more
    assert "a/scene.seggeo" not in little


def test_quiet_says_nothing(folder: Path):
    ran = succeed("segment", "scene.tif", "-q", *PLAIN, cwd=folder)

    assert ran.out == ""
    assert ran.err == ""


@pytest.mark.parametrize("command", [["segment", "scene.tif", "--json", *PLAIN], ["info", "scene.tif"]])
def test_a_reader_that_has_gone_ends_it_quietly(folder: Path, command: list[str]):
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [str(COMMAND), *command], cwd=folder, env=clean_environment(), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)

    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


def test_without_any_streams_it_still_works(folder: Path):
    closed = subprocess.run(
        ["sh", "-c", f'exec "{COMMAND}" segment scene.tif {" ".join(SMALL)} <&- >&- 2>&-'],
        cwd=folder, env=clean_environment(), check=False,
    )  # fmt: skip

    assert closed.returncode == 0
    assert (folder / "scene_objects.gpkg").exists()


def test_info_plugins_and_models(folder: Path):
    facts = succeed("info", "scene.tif", "--json", cwd=folder).results[0]
    assert (facts["height"], facts["width"], facts["bands"]) == (200, 220, 3)
    assert "crs: EPSG:32633" in succeed("info", "scene.tif", cwd=folder).out
    plugins = succeed("plugins", "--json", cwd=folder).results[0]
    assert {"gpkg", "cog"} <= set(plugins["seggeo.sinks"])
    listed = succeed("models", "list", "--json", cwd=folder).results[0]
    assert {"threshold", "sam", "maskrcnn", "regions"} <= set(listed["segmenters"])
    assert call("info", "none.tif", cwd=folder).code == 3
    assert call("info", cwd=folder).code == 2
    assert call("models", "info", "none", cwd=folder).code == 6


def test_help_is_quick_because_nothing_heavy_is_imported(tmp_path: Path):
    program = (
        "import sys; sys.argv = ['seggeo', 'segment', '--help']\n"
        "from seggeo.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'rasterio', 'scipy', 'shapely', 'pyogrio', 'skimage', 'dask'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([COMMAND.with_name("python"), "-c", program], cwd=tmp_path, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr.decode()
    assert "--match-iou" in done.stdout.decode()
