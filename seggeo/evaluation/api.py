"""The door: `evaluate` for paths and for objects in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seggeo.errors import ConfigError
from seggeo.evaluation.compare import compare
from seggeo.evaluation.inputs import Case, cases_of
from seggeo.evaluation.options import Options, options_from
from seggeo.evaluation.report import Collector, Evaluation
from seggeo.evaluation.seams import check_run, read_job
from seggeo.evaluation.volume import compare_volumes
from seggeo.evaluation.volume_grid import check_volumes
from seggeo.job import Job


def evaluate(pred: Any, truth: Any, **options: Any) -> Evaluation:
    """Compare predicted with true objects, as `seggeo evaluate` does.

    Args:
        pred: Label raster or volume, vector file, COCO json, or a folder of these; or in memory a label image `(h, w)`, a
            label volume `(z, h, w)`, `Instances`, an `ObjectSet`, or a list of them, one for each image.
        truth: Likewise.
        **options: Fields of `seggeo.evaluation.options.Options`, for example `thresholds=(0.5, 0.75)`, `run="scene.seggeo"`.

    Raises:
        SeggeoError: Of the kind that fits.
    """
    return run_evaluation(pred, truth, options_from(options))


def run_evaluation(
    pred: Any, truth: Any, options: Options, report: Callable[[int, int], None] | None = None
) -> Evaluation:  # fmt: skip
    """The same with checked options; `report(done, images)` is called after each image."""
    job = read_job(options.run) if options.run is not None else None
    cases = cases_of(pred, truth, options, job.frame if job else None)
    if job is not None and len(cases) > 1:
        raise ConfigError(
            what=f"--run {options.run} with {len(cases)} images", why="a run folder is of one image",
            mend="compare that image alone",
        )  # fmt: skip
    collector = Collector(thresholds=options.thresholds)
    _check_mixture(cases)
    for case in cases:
        if case.volumes is None:
            _add_image(collector, case, job)
        else:
            _add_volume(collector, case, options.link_gap)
        if report is not None:
            report(len(collector.comparisons), len(cases))
    return collector.finish()


def _check_mixture(cases: list[Case]) -> None:
    """Refuse a data set in which a part counts pixels and the rest voxels."""
    flat = [case.name for case in cases if case.volumes is None]
    if flat and len(flat) < len(cases):
        raise ConfigError(
            what=f"{len(flat)} images and {len(cases) - len(flat)} volumes in one data set",
            why="pixels and voxels do not add up", mend="evaluate them apart",
        )  # fmt: skip


def _add_image(collector: Collector, case: Case, job: Job | None) -> None:
    pred, truth, remarks = case.read()
    if job is not None:
        check_run(job, truth.frame or pred.frame)
    grid = job.grid if job is not None else None
    collector.add(compare(pred, truth, collector.thresholds, name=case.name, group=case.group, grid=grid), pred, truth, remarks)


def _add_volume(collector: Collector, case: Case, gap: int) -> None:
    assert case.volumes is not None
    pred, truth = case.volumes()
    try:
        remarks = check_volumes(pred, truth, case.name)
        found = compare_volumes(pred, truth, collector.thresholds, gap=gap, name=case.name, group=case.group)
    finally:
        pred.file.close()
        truth.file.close()
    collector.add_volume(found, remarks)
