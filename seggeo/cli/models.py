"""`seggeo models`: what there is to download, what is here, and fetching it safely."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from seggeo.errors import ModelError

app = typer.Typer(no_args_is_help=True, help="Models and their weights.", rich_markup_mode=None)
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Name = Annotated[str, typer.Argument(help="A name from `seggeo models list`.")]


@app.command("list")
def list_(json_: AsJson = False) -> None:
    """Models that are installed, weights that came along, and official weights that `pull` knows."""
    from seggeo.models.bundled import bundled_models
    from seggeo.models.registry import known_models
    from seggeo.plugins import available

    known, bundled = known_models(), bundled_models()
    if json_:
        values = {
            "segmenters": list(available("seggeo.segmenters")),
            "bundled": [_plain({**asdict(m), "size_bytes": m.size_bytes, "sha256": m.sha256}) for m in bundled],
            "weights": [_plain(asdict(m)) for m in known],
        }
        typer.echo(json.dumps(values))
        return
    typer.echo(f"segmenters: {', '.join(available('seggeo.segmenters'))}, or your own: my_model.py:MyModel")
    typer.echo("weights:")
    for own in bundled:
        about = f", {own.title}" if own.title else ""
        typer.echo(f"  {own.name}  for --model {own.model}, {own.licence or 'licence unknown'}, bundled{about}")
    for model in known:
        typer.echo(f"  {model.name}  for --model {model.kind}, {model.licence}, {'here' if model.cached else 'not here'}")


@app.command()
def info(name: Name) -> None:
    """Everything known of one set of weights."""
    from seggeo.models.bundled import find_bundled

    bundled = find_bundled(name)
    if bundled is None:
        values = asdict(_found(name))
    else:
        own = {key: value for key, value in asdict(bundled).items() if key != "facts"}
        values = {**own, "size_bytes": bundled.size_bytes, "sha256": bundled.sha256, **bundled.facts}
    for key, value in values.items():
        typer.echo(f"{key}: {value}")


def _found(name: str) -> Any:
    """Official weights by name; the refusal of another tells of bundled ones too."""
    from seggeo.models.bundled import bundled_models
    from seggeo.models.registry import find

    try:
        return find(name)
    except ModelError as error:
        own = ", ".join(model.name for model in bundled_models())
        raise ModelError(what=error.what, why=f"{error.why}; bundled are {own}", mend=error.mend) from error


def _plain(values: dict[str, Any]) -> Any:
    return json.loads(json.dumps(values, default=str))


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
