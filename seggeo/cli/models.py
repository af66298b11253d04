"""`seggeo models`: what there is to download, what is here, and fetching it safely."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Models and their weights.", rich_markup_mode=None)
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Name = Annotated[str, typer.Argument(help="A name from `seggeo models list`.")]


@app.command("list")
def list_(json_: AsJson = False) -> None:
    """Models that are installed, and official weights that `pull` knows."""
    from seggeo.models.registry import known_models
    from seggeo.plugins import available

    known = known_models()
    if json_:
        values = {
            "segmenters": list(available("seggeo.segmenters")),
            "weights": [json.loads(json.dumps(asdict(m), default=str)) for m in known],
        }
        typer.echo(json.dumps(values))
        return
    typer.echo(f"segmenters: {', '.join(available('seggeo.segmenters'))}, or your own: my_model.py:MyModel")
    typer.echo("weights:")
    for model in known:
        typer.echo(f"  {model.name}  for --model {model.kind}, {model.licence}, {'here' if model.cached else 'not here'}")


@app.command()
def info(name: Name) -> None:
    """Everything known of one set of weights."""
    from seggeo.models.registry import find

    for key, value in asdict(find(name)).items():
        typer.echo(f"{key}: {value}")


@app.command()
def pull(name: Name) -> None:
    """Download official weights into the cache, verified; prints the path."""
    from tqdm import tqdm

    from seggeo.models.registry import pull as download

    with tqdm(unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = download(name, progress=show)
    typer.echo(str(path))
