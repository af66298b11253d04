"""The door: `evaluate` for paths and for objects in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seggeo.errors import ConfigError
from seggeo.evaluation.compare import compare
from seggeo.evaluation.inputs import cases_of, read_all
from seggeo.evaluation.options import Options, options_from
from seggeo.evaluation.report import Collector, Evaluation
from seggeo.evaluation.seams import check_run, read_job


def evaluate(pred: Any, truth: Any, **options: Any) -> Evaluation:
    """Compare predicted with true objects, as `seggeo evaluate` does.

    Args:
        pred: Label raster, vector file, COCO json, or a folder of these; or in memory a label image `(h, w)`, `Instances`,
            an `ObjectSet`, or a list of them, one for each image.
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
    for case, a, b, remarks in read_all(cases):
        if job is not None:
            check_run(job, b.frame or a.frame)
        grid = job.grid if job is not None else None
        comparison = compare(a, b, options.thresholds, name=case.name, group=case.group, grid=grid)
        collector.add(comparison, a, b, remarks)
        if report is not None:
            report(len(collector.comparisons), len(cases))
    return collector.finish()
