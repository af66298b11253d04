"""Planned, predicted in shards and merged: the same bytes as in one go, and nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_flow import FRAGILE, ORACLE, call, clean_environment, digests, scene, seggeo, succeed, write_labels, write_model

JOB = ("scene.tif", "--model", "oracle.py:Oracle", "-f", "gpkg,cog", "--tile", "96", "--overlap", "32", "--no-preview")
ONE = ("--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 42 tiles, an oracle, and the result of one go in `whole`."""
    folder = tmp_path_factory.mktemp("batch")
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, ORACLE)
    write_model(folder, FRAGILE, "fragile.py")
    succeed("segment", *JOB, "-o", "whole", cwd=folder)
    return folder


def plan(folder: Path, name: str, *more: str, shards: int = 4) -> None:
    succeed(
        "plan", "segment", *JOB, *ONE, "-o", f"{name}_out", "--job", f"{name}_job", "--shards", str(shards), *more, cwd=folder
    )  # fmt: skip


def test_shards_and_merge_write_the_same_bytes_as_one_go(folder: Path):
    plan(folder, "four")
    for number, workers in ((3, 2), (1, 1), (4, 1), (2, 1)):
        succeed("run", "four_job", "--part", f"{number}/4", "--workers", str(workers), cwd=folder)
    succeed("merge", "four_job", cwd=folder)

    assert digests(folder / "four_out") == digests(folder / "whole")
    done = json.loads(succeed("status", "four_job", "--json", cwd=folder).out)
    assert (done["parts_done"], done["inputs_merged"], done["shards_missing"]) == (done["parts"], 1, [])
    assert sum(node["tiles"] for node in done["nodes"]) == done["tiles"] == 42
    assert all(node["state"] == "ended 0" for node in done["nodes"])
    assert sorted(node["shard"] for node in done["nodes"]) == [[n, 4] for n in range(1, 5)]


def test_shards_carry_equal_work(folder: Path):
    plan(folder, "equal", shards=3)
    from seggeo.run.batch import load_batch

    batch = load_batch(folder / "equal_job")
    parts = [dict(batch.of_shard(number, 3))[0] for number in (1, 2, 3)]

    assert sorted(sum(parts, [])) == list(range(len(batch.part)))
    work = [float(batch.work[some].sum()) for some in parts]
    assert max(work) - min(work) <= 2 * float(batch.work.max())


def test_a_merge_of_missing_parts_is_refused_and_says_what_is_missing(folder: Path):
    plan(folder, "some")
    succeed("run", "some_job", "--part", "2/4", cwd=folder)

    refused = call("merge", "some_job", cwd=folder)

    assert refused.code == 4
    assert "1,3-4" in refused.refusal()[2]
    assert not (folder / "some_out").exists() or not list((folder / "some_out").glob("*.gpkg"))
    told = json.loads(succeed("status", "some_job", "--json", cwd=folder).out)
    assert told["shards_missing"] == [1, 3, 4]
    assert any("1,3-4" in line for line in told["advice"])

    partial = call("merge", "some_job", "--allow-partial", "--json", cwd=folder)
    assert partial.code == 0, partial.err
    assert 0 < partial.results[0]["failed_tiles"] < 42

    succeed("run", "some_job", cwd=folder)
    succeed("merge", "some_job", cwd=folder)
    assert digests(folder / "some_out") == digests(folder / "whole")


@pytest.mark.parametrize(
    "variable",
    [
        "SLURM_ARRAY_TASK_ID",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX", "SGE_TASK_ID")
        ),
    ],
)
def test_array_variables_say_the_part(folder: Path, variable: str):
    plan(folder, variable, shards=2)

    ran = seggeo("run", f"{variable}_job", "--json", cwd=folder, **{variable: "2"})

    assert ran.code == 0, ran.err
    assert ran.results[0]["shard"] == [2, 2]


def test_two_array_variables_at_once_are_an_error(folder: Path):
    plan(folder, "two", shards=2)
    twice = {"SLURM_ARRAY_TASK_ID": "1", "SGE_TASK_ID": "2"}

    assert seggeo("run", "two_job", cwd=folder, **twice).code == 2
    assert seggeo("run", "two_job", "--part", "1", cwd=folder, **twice).code == 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "2/1", "one", "", "1/0", "-1/2"])
def test_parts_that_do_not_exist_are_refused(folder: Path, part: str):
    plan(folder, "parts", shards=2)

    assert call("run", "parts_job", f"--part={part}", cwd=folder).code == 2


def test_a_changed_input_or_plan_is_refused(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, ORACLE)
    succeed("plan", "segment", *JOB, "-o", "out", "--job", "job", cwd=tmp_path)
    other = call("plan", "segment", *JOB[:-5], "--tile", "128", "--overlap", "32", "-o", "out", "--job", "job", cwd=tmp_path)
    assert other.code == 5
    assert "tile was 96 there and is 128 now" in "".join(other.refusal())
    succeed("run", "job", cwd=tmp_path)

    write_labels(tmp_path / "scene.tif", scene("discs", 5, (320, 320)))

    assert call("merge", "job", cwd=tmp_path).code == 3
    assert call("run", "job", cwd=tmp_path).code == 0, "nothing is left to read"


@pytest.mark.parametrize("where", ["nothing", "scene.tif", "whole"])
def test_what_is_no_batch_is_refused(folder: Path, where: str):
    for verb in ("run", "merge", "status"):
        refused = call(verb, where, cwd=folder)
        assert refused.code == 3
        assert "seggeo plan" in refused.refusal()[2]


def test_a_damaged_batch_is_no_missing_one(tmp_path: Path):
    (tmp_path / "batch.json").write_text("{")

    assert call("status", ".", cwd=tmp_path).code == 1


def test_a_batch_moves_with_its_folder_and_runs_from_anywhere(folder: Path, tmp_path: Path):
    plan(folder, "moved")
    (folder / "moved_job").rename(tmp_path / "a job")

    succeed("run", "a job", cwd=tmp_path)
    succeed("merge", "a job", cwd=tmp_path)

    assert digests(folder / "moved_out") == digests(folder / "whole")


def test_inputs_that_cannot_be_planned_do_not_keep_the_others_from_it(folder: Path, tmp_path: Path):
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    write_labels(tmp_path / "good.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, ORACLE)

    planned = call("plan", "segment", "broken.tif", "good.tif", *JOB[1:], "-o", "out", "--job", "job", "--json", cwd=tmp_path)
    assert planned.code == 4
    succeed("run", "job", cwd=tmp_path)
    merged = call("merge", "job", cwd=tmp_path)

    assert merged.code == 4
    assert (tmp_path / "out" / "good_objects.gpkg").exists()


def test_a_bad_tile_of_a_shard_is_told_and_tried_again(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene("discs", 4, (320, 320)))
    write_model(tmp_path, FRAGILE, "fragile.py")
    job = ("scene.tif", "--model", "fragile.py:Fragile", *JOB[5:], "-f", "gpkg")
    succeed("segment", *job, "-o", "clean", cwd=tmp_path, BROKEN="broken")
    (tmp_path / "broken").touch()
    succeed("plan", "segment", *job, *ONE, "-o", "out", "--job", "job", "--shards", "2", cwd=tmp_path)

    ran = [call("run", "job", "--part", f"{n}/2", cwd=tmp_path, BROKEN="broken").code for n in (1, 2)]
    merged = call("merge", "job", cwd=tmp_path)

    assert sorted(ran) == [0, 4]
    assert merged.code == 4
    assert "1 of 25 tiles failed" in merged.err
    (tmp_path / "broken").unlink()
    for number in (1, 2):
        succeed("run", "job", "--part", f"{number}/2", cwd=tmp_path, BROKEN="broken")
    succeed("merge", "job", cwd=tmp_path)
    assert digests(tmp_path / "out") == digests(tmp_path / "clean")


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf", "sge", "list"])
def test_scripts_are_whole_and_parse(folder: Path, kind: str):
    import subprocess

    name = f"emit {kind}"
    succeed(
        "plan", "segment", *JOB, *ONE, "-o", f"{name}_out", "--job", f"{name}_job", "--shards", "3", "--emit", kind, cwd=folder
    )  # fmt: skip

    scripts = [p for p in (folder / f"{name}_job").iterdir() if p.suffix in (".sbatch", ".pbs", ".lsf", ".sge", ".sh", ".txt")]
    assert len(scripts) == (1 if kind == "list" else 3)
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True, env=clean_environment())
    if kind == "list":
        subprocess.run(["sh", str(scripts[0])], check=True, env=clean_environment(), capture_output=True)
        succeed("merge", f"{name}_job", cwd=folder)
        assert digests(folder / f"{name}_out") == digests(folder / "whole")
    assert call("plan", "segment", *JOB, "-o", "x", "--job", f"{name}_none", "--emit", "cron", cwd=folder).code == 2
    assert not (folder / f"{name}_none").exists()
