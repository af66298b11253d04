"""`seggeo plan`: freeze the work of `segment` or `count-cells` into a folder, for any number of processes to do."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.cli.count_cells import count_cells, counting_of
from seggeo.cli.segment import jobs_of, segment, stoppable
from seggeo.cli.talk import Talk
from seggeo.config import Settings, to_json
from seggeo.errors import IncompleteError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Plan a job for many processes or a cluster: then seggeo run, and seggeo merge. Nothing is predicted.",
)  # fmt: skip

JobFolder = Annotated[
    Path, typer.Option("--job", help="New folder for the plan and the finished tiles.", rich_help_panel=o.RUNNING)
]
Shards = Annotated[
    int, typer.Option(
        "--shards", min=0, max=100_000, show_default="one for eight parts", rich_help_panel=o.RUNNING,
        help="Into how many pieces of equal work to cut it: jobs of an array.",
    ),
]  # fmt: skip
Emit = Annotated[
    str | None, typer.Option(
        "--emit", rich_help_panel=o.RUNNING, show_default=False,
        help="Write a script for a batch system into the folder: slurm, pbs, lsf, sge or list.",
    ),
]  # fmt: skip
_OWN = {"job": (JobFolder, inspect.Parameter.empty), "shards": (Shards, 0), "emit": (Emit, None)}
_NOT_PLANNED = frozenset({"dry_run", "work", "time_limit", "dask"})


def _with_options_of(command: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function the options of a command, and those of a plan."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        theirs = inspect.signature(command, eval_str=True).parameters.values()
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in theirs if p.name not in _NOT_PLANNED]
        ours = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in _OWN.items()
        ]
        function.__signature__ = inspect.Signature([*kept, *ours])  # type: ignore[attr-defined]
        function.__annotations__ = {}
        return function

    return decorate


@app.command("segment")
@_with_options_of(segment)
def plan_segment(ctx: typer.Context, **given: Any) -> None:
    """Plan what `seggeo segment` with the same options does in one go."""
    from seggeo.run.batch import Item, Wish

    jobs, _ = jobs_of(ctx, given["inputs"], given["out"], given["config"])
    items = [Item(path=job.name, stem=job.stem, settings=partial(_same, job.settings)) for job in jobs]
    wish = Wish(kind="segment", out=given["out"], execution=jobs[0].execution, **_asked(given))
    _plan(items, wish, given)


@app.command("count-cells")
@_with_options_of(count_cells)
def plan_count_cells(ctx: typer.Context, **given: Any) -> None:
    """Plan what `seggeo count-cells` with the same options does in one go."""
    from seggeo.run.batch import Item, Wish
    from seggeo.run.count import check_resolution, of_slide

    slides, how = counting_of(ctx, given["slides"], given["out"], given["config"])
    items = [
        Item(path=slide.path, stem=slide.id, settings=partial(of_slide, how.settings, slide), slide=to_json(slide))
        for slide in slides
    ]

    def check(plan: Any, item: Any) -> None:
        check_resolution(plan, item.path, pixels=how.pixels)

    wish = Wish(kind="count-cells", out=how.out, execution=how.execution, check=check, **_asked(given))
    _plan(items, wish, given)


def _same(settings: Settings) -> Settings:
    return settings


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    from seggeo.run.plan import public_name

    return {"shards": given["shards"], "command": ("seggeo", *map(public_name, sys.argv[1:]))}


def _plan(items: list[Any], wish: Any, given: dict[str, Any]) -> None:
    """Plan all inputs, tell of each, and write the script that is asked for."""
    from seggeo.run.batch import plan_batch
    from seggeo.run.emit import check_kind, write_script

    talk = Talk(quiet=given["quiet"], verbose=given["verbose"], json=given["json_"], out=sys.stdout)
    folder, emit = given["job"], given["emit"]
    if emit is not None:
        check_kind(emit, given["shards"])
    with stoppable(), redirect_stdout(sys.stderr):
        batch = _told(plan_batch(folder, items, wish), talk)
        script = None if emit is None else write_script(batch, emit)
    facts = batch.facts
    talk.say(
        f"{len(batch.folders)} inputs, {facts['tiles']} tiles in {facts['parts']} parts, {batch.shards} shards; "
        f"about {facts['memory_bytes'] / 1e9:.1f} GB a process, {facts['disk_bytes'] / 1e6:.0f} MB on disk"
    )
    job = shlex.quote(str(folder))
    talk.say(f"  submit it: {script[0]}" if script else f"  predict it: seggeo run {job} --part 1/{batch.shards} (and so on)")
    talk.say(f"  {script[1]}" if script else f"  then: seggeo merge {job}")
    values = {"job": str(folder), "inputs": len(batch.folders), "shards": batch.shards, "failures": list(batch.failures)}
    values |= {name: facts[name] for name in ("tiles", "parts", "memory_bytes", "disk_bytes")}
    talk.result(values | {"submit": script[0] if script else None})
    if batch.failures:
        raise IncompleteError(
            what=f"{len(batch.failures)} of {len(items)} inputs could not be planned",
            why=f"{batch.failures[0]['id']}: {batch.failures[0]['error']['what']}",
            mend="the others are planned and can be run; mend these and plan again into the same folder to add them",
        )  # fmt: skip


def _told(events: Iterable[Any], talk: Talk) -> Any:
    """Drive a plan and tell of each input; the batch."""
    iterator = iter(events)
    while True:
        try:
            planned = next(iterator)
        except StopIteration as done:
            return done.value
        if planned.error is not None:
            talk.error(planned.error, planned.item.stem)
        else:
            job = planned.plan.job
            talk.say(f"{planned.item.path}: {job.frame.width} x {job.frame.height} px, {len(job.grid)} tiles of {job.tile} px")
