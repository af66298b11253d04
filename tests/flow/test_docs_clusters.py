"""The recipes of docs/clusters.md, as they stand there but for a smaller job."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support_docs import DOCS, code_blocks, section
from support_flow import COMMAND, PLAIN, clean_environment, digests, scene, succeed, write_picture

JOB = " ".join(PLAIN[:-1])


def small(text: str) -> str:
    """A recipe with a model that is there at once, and two shards."""
    return text.replace("-o results/", f"{JOB} -o results/").replace("--shards 8", "--shards 2").replace('"job", 8', '"job", 2')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_picture(tmp_path / "scene.tif", scene("discs", 5, (200, 300)))
    succeed("segment", "scene.tif", *PLAIN[:-1], "-o", "whole", cwd=tmp_path)
    return tmp_path


def run(words: list[str], folder: Path) -> None:
    environment = clean_environment(PATH=f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(folder / "results") == digests(folder / "whole")


def test_the_plain_shell_recipes_run(folder: Path):
    written = section("clusters.md", "Plain shell")
    many, until = (block for block in code_blocks("clusters.md", "sh") if block in written)

    run(["bash", "-ec", small(many)], folder)
    shutil.rmtree(folder / "results")
    run(["bash", "-c", until], folder)


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_the_snakemake_recipe_runs(folder: Path):
    (block,) = code_blocks("clusters.md", "python")
    (folder / "Snakefile").write_text(small(block))

    run([str(shutil.which("snakemake")), "--cores", "2"], folder)


def test_the_page_tells_the_limits_that_the_code_has():
    from seggeo.run import emit, walltime

    text = (DOCS / "clusters.md").read_text(encoding="utf-8")
    assert f"More than {emit._MAX_ARRAY:_} tasks".replace("_", " ") in text
    assert walltime.MARGIN_S == 60
    assert "one minute before the end" in text
