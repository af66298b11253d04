"""`seggeo train`: a model of the user's own from labels of the user's own."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.cli.talk import Talk
from seggeo.errors import ConfigError
from seggeo.values import pairs

DATA, LEARNING, WRITING, RUNNING = "Data", "Learning", "Writing", "Running"


def _option(name: str, help_: str, panel: str, default: str | bool = False) -> Any:
    return typer.Option(f"--{name}", help=help_, show_default=default, rich_help_panel=panel)


Model = Annotated[str, typer.Argument(help="unet or maskrcnn.")]
Data = Annotated[
    list[Path],
    typer.Argument(
        help="COCO json, folder of images/ and labels/, manifest CSV, images or volumes with --labels.", show_default=False
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the training; it goes on there when run again.", rich_help_panel=WRITING)
]
Labels = Annotated[Path | None, _option("labels", "Polygons, label raster or volume, or COCO json of the image given.", DATA)]
Images = Annotated[Path | None, _option("images", "Folder of the images a COCO json names.", DATA, "beside the json")]
Aoi = Annotated[Path | None, _option("aoi", "Polygons of the part that is labelled; nothing is learnt outside.", DATA)]
Attribute = Annotated[str | None, _option("attribute", "Column of a vector file that holds the class.", DATA)]
Bands = Annotated[str | None, _option("bands", "Bands to learn from, counted from 1; all for every band.", DATA, "RGB")]
Gsd = Annotated[float | None, _option("gsd", "Ground sample distance to work at, metres.", DATA, "the files' own")]
Stretch = Annotated[str, _option("stretch", "How images become 8 bits, as in `seggeo segment`.", DATA, "auto")]
AllowOverlap = Annotated[bool, _option("allow-overlap", "Objects may lie on each other.", DATA)]
Val = Annotated[float, _option("val", "Share of the objects held back where the data name no split.", DATA, "0.15")]
Weights = Annotated[
    Path | None, _option("weights", "Weights to begin with: a file, or a name as in segment.", LEARNING, "none")
]
Minutes = Annotated[float | None, _option("minutes", "Budget of time, validation included.", LEARNING, "60, none with --steps")]
Steps = Annotated[int, _option("steps", "Budget of batches; 0: none. The same steps give the same weights.", LEARNING, "0")]
Batch = Annotated[int, _option("batch", "Samples in a batch.", LEARNING, "4")]
Crop = Annotated[int, _option("crop", "Side of a sample, px.", LEARNING, "256")]
Rate = Annotated[float | None, _option("rate", "Greatest learning rate.", LEARNING, "the model's")]
EpochSteps = Annotated[int, _option("epoch", "Batches between validations; the weights of the best are kept.", LEARNING, "500")]
Diameter = Annotated[
    str | None,
    _option("diameter", "Train over object sizes, px: 9,48; for images of unknown resolution.", LEARNING, "as they are"),
]
Zoom = Annotated[str, _option("zoom", "Zoom of samples: low,high.", LEARNING, "0.8,1.25")]
Seed = Annotated[int, _option("seed", "Of samples, split and first weights.", LEARNING, "0")]
Set = Annotated[list[str] | None, _option("set", "A setting of the architecture, key=value.", LEARNING)]
Autocast = Annotated[bool, _option("autocast", "Half precision on an accelerator.", RUNNING)]
Device = Annotated[str, _option("device", "auto, cpu, cuda, cuda:N or mps.", RUNNING, "auto")]
Threads = Annotated[int, _option("threads", "Threads that prepare samples.", RUNNING, "1")]
Overwrite = Annotated[bool, _option("overwrite", "Start anew where the folder holds another training.", WRITING)]
Title = Annotated[str, _option("title", "One line about the model, kept in the weights.", WRITING)]
Licence = Annotated[str, _option("licence", "Licence of the weights, kept in them.", WRITING)]
Credit = Annotated[str, _option("credit", "Whom to name for the data, kept in the weights.", WRITING)]
AsJson = Annotated[bool, _option("json", "A line of JSON for each epoch on stdout.", RUNNING)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=RUNNING)]


def train(  # noqa: PLR0913 - one for each option
    model: Model, data: Data, out: Out, labels: Labels = None, images: Images = None, aoi: Aoi = None,
    attribute: Attribute = None, bands: Bands = None, gsd: Gsd = None, stretch: Stretch = "auto",
    axis: o.Axis = None, channel: o.Channel = None, window: o.CtWindow = None, neighbours: o.Neighbours = None,
    smooth: o.Smooth = None, allow_overlap: AllowOverlap = False, val: Val = 0.15, weights: Weights = None,
    minutes: Minutes = None, steps: Steps = 0,
    batch: Batch = 4, crop: Crop = 256, rate: Rate = None, epoch: EpochSteps = 500, diameter: Diameter = None,
    zoom: Zoom = "0.8,1.25", seed: Seed = 0, set: Set = None, autocast: Autocast = False, device: Device = "auto",
    threads: Threads = 1, overwrite: Overwrite = False, title: Title = "", licence: Licence = "", credit: Credit = "",
    json_: AsJson = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a model from labelled images; a training that was stopped goes on when the same command is given again."""
    from seggeo.cli.training import run
    from seggeo.config import Reading
    from seggeo.train.examples import find_examples
    from seggeo.train.recipe import Recipe
    from seggeo.train.session import About, Running
    from seggeo.train.session import train as learn

    every = bands == "all"
    sliced = o.values_of(axis=axis, channel=channel, window=window, neighbours=neighbours, smooth=smooth)
    reading = Reading(bands=None if every or bands is None else _integers("bands", bands), gsd=gsd, stretch=stretch, **sliced)
    recipe = Recipe(
        model=model, reading=reading, all_bands=every or bands is not None, crop=crop, batch=batch, epoch=epoch, rate=rate,
        minutes=minutes if minutes is not None else 0.0 if steps else 60.0, steps=steps,
        diameter=_pair("diameter", diameter, "9,48"), zoom=_pair("zoom", zoom, "0.8,1.25") or (0.8, 1.25), val=val, seed=seed,
        autocast=autocast, allow_overlap=allow_overlap, set=pairs(set or []),
    )  # fmt: skip
    running = Running(weights=weights, device=device, threads=threads, overwrite=overwrite)
    about = About(title=title, licence=licence, credit=credit)
    talk = Talk(quiet=quiet, verbose=False, json=json_, out=sys.stdout)
    # Standard output is for results: what a library prints goes where messages go.
    with redirect_stdout(sys.stderr):
        examples = find_examples(data, labels=labels, aoi=aoi, attribute=attribute, images=images)
        run(learn(examples, recipe, out, about, running), out, talk)


def _pair(name: str, text: str | None, example: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            what=f"{name} {text!r} is no range", why="it is two numbers, low and high", mend=f"use --{name} {example}"
        ) from error
    return low, high


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(what=f"{name} {text!r}", why="they are whole numbers", mend=f"use --{name} 3,2,1 or all") from error
