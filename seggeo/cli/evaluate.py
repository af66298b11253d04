"""`seggeo evaluate`: how good a result is, beside the truth."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seggeo.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from seggeo.evaluation.options import Options
    from seggeo.evaluation.report import Evaluation

COMPARING, WRITING = "Comparing", "Writing"


def _option(name: str, help_: str, panel: str, default: str | bool = False) -> Any:
    return typer.Option(f"--{name}", help=help_, show_default=default, rich_help_panel=panel)


Pred = Annotated[
    Path, typer.Argument(help="Predicted objects: label raster or volume, vector file, COCO json, or a folder of these.")
]
Truth = Annotated[Path, typer.Argument(help="True objects, likewise; folders are matched by file name.")]
AsJson = Annotated[bool, _option("json", "One line of JSON instead of the table.", WRITING)]
PerObject = Annotated[Path | None, _option("per-object", "CSV with a row for every object of both sides.", WRITING)]
Picture = Annotated[Path | None, _option("figure", "PNG: hits, misses, false alarms; recall and precision by size.", WRITING)]
Overwrite = Annotated[bool, _option("overwrite", "Replace the CSV and the PNG.", WRITING)]
Threshold = Annotated[str | None, _option("threshold", "Least IoUs of a match: 0.5,0.75.", COMPARING, "0.5 to 0.95 by 0.05")]
Run = Annotated[Path | None, _option("run", "Run folder (scene.seggeo): scores near its seams and away from them.", COMPARING)]
Image = Annotated[Path | None, _option("image", "The picture, or a folder: ground of the figure, grid of polygons.", COMPARING)]
Attribute = Annotated[str | None, _option("attribute", "Column of a vector TRUTH that holds the class.", COMPARING)]
PredAttribute = Annotated[
    str | None, _option("pred-attribute", "Column of a vector PRED that holds the class.", COMPARING, "class in our own files")
]
Groups = Annotated[str | None, _option("groups", "Scores by kind of image: index.csv:column, by its column `name`.", COMPARING)]
Where = Annotated[str | None, _option("where", "Only images whose row in that CSV has column=value.", COMPARING)]
Stack = Annotated[bool, _option("stack", "A folder is one volume, a mask for each slice, and no data set.", COMPARING)]
LinkGap = Annotated[int, _option("link-gap", "Slices of a volume without an object that do not part it.", COMPARING, True)]
AllowMissing = Annotated[bool, _option("allow-missing", "Leave out images that only one side has.", COMPARING)]


def evaluate(  # noqa: PLR0913 - one for each option
    pred: Pred, truth: Truth, json_: AsJson = False, per_object: PerObject = None, figure: Picture = None,
    overwrite: Overwrite = False, threshold: Threshold = None, run: Run = None, image: Image = None,
    attribute: Attribute = None, pred_attribute: PredAttribute = None, groups: Groups = None, where: Where = None,
    allow_missing: AllowMissing = False, stack: Stack = False, link_gap: LinkGap = 2,
) -> None:  # fmt: skip
    """Compare predicted with true objects: PQ, AP, F1, AJI, counts, splits and merges; of volumes along z too."""
    for path in (per_object, figure):
        _check_output(path, (pred, truth, image), overwrite)
    asked = {
        "attribute": attribute, "pred_attribute": pred_attribute, "run": run, "image": image, "groups": groups, "where": where,
        "allow_missing": allow_missing, "stack": stack, "link_gap": link_gap,
        **({} if threshold is None else {"thresholds": _numbers(threshold)}),
    }  # fmt: skip
    from seggeo.evaluation.figure import draw_figure
    from seggeo.evaluation.inputs import picture_of
    from seggeo.evaluation.options import options_from
    from seggeo.evaluation.rows import write_csv

    options = options_from(asked)
    result = _run(pred, truth, options)
    if per_object is not None:
        write_csv(per_object, result.rows.items())
    if figure is not None:
        draw_figure(result, figure, picture_of(image, result.shown.name) if result.shown else None)
    _show(result, {"per_object": per_object, "figure": figure}, json_)


def _run(pred: Path, truth: Path, options: Options) -> Evaluation:
    """The comparison, with a bar where someone looks and several images are to come."""
    from tqdm import tqdm

    from seggeo.evaluation.api import run_evaluation

    with tqdm(unit="image", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def report(done: int, images: int) -> None:
            bar.total = images
            bar.update(done - bar.n)

        return run_evaluation(pred, truth, options, report)


def _show(result: Evaluation, written: dict[str, Path | None], as_json: bool) -> None:
    from seggeo.evaluation.table import lines

    files = {name: str(path) for name, path in written.items() if path is not None}
    if as_json:
        typer.echo(json.dumps({**result.to_json(), "outputs": files}))
        return
    for line in lines(result):
        typer.echo(line)
    for path in files.values():
        typer.echo(f"wrote {path}", err=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(what=f"--threshold {text}", why=str(error), mend="use --threshold 0.5,0.75") from error


def _check_output(path: Path | None, inputs: tuple[Path | None, ...], overwrite: bool) -> None:
    """Refuse to replace what is there, and ever to replace an input."""
    if path is None:
        return
    if any(given is not None and os.path.realpath(given) == os.path.realpath(path) for given in inputs):
        raise OutputError(what=f"{path} would be written over", why="it is an input", mend="choose another name")
    if path.is_dir() or (path.exists() and not overwrite):
        what = "a folder" if path.is_dir() else "there already"
        raise OutputError(what=f"{path} is {what}", why="nothing is replaced unasked", mend="use --overwrite, or another name")
    if not path.parent.is_dir():
        raise OutputError(what=f"{path} cannot be written", why=f"there is no folder {path.parent}", mend="make it first")
