"""The entry point: commands, logging, messages and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from seggeo import __version__
from seggeo.cli import batch, inspect, models, planning
from seggeo.cli.count_cells import count_cells
from seggeo.cli.evaluate import evaluate
from seggeo.cli.segment import segment
from seggeo.cli.talk import on_one_line, three_lines
from seggeo.cli.train import train
from seggeo.errors import ConfigError, ResourceError, SeggeoError
from seggeo.run import logs
from seggeo.run.collector import collect_rarely

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Turn images bigger than memory into objects.",
)  # fmt: skip
app.command()(segment)
app.command("count-cells")(count_cells)
app.add_typer(planning.app, name="plan")
app.command()(batch.run)
app.command()(batch.merge)
app.command()(batch.status)
app.command()(evaluate)
app.command()(train)
app.command()(inspect.info)
app.command()(inspect.plugins)
app.add_typer(models.app, name="models")


class LogFormat(StrEnum):
    """How messages are written."""

    TEXT = "text"
    JSON = "json"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything and show tracebacks.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", envvar=logs.VARIABLE, help="What standard error holds: text, or JSON lines.")
    ] = LogFormat.TEXT,
) -> None:
    """Turn images bigger than memory into objects."""
    logs.start(log_format.value, logging.DEBUG if debug else logging.WARNING)
    warnings.formatwarning = _told_once()
    if not debug:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)


def _told_once() -> Callable[..., str]:
    """Warnings on one line, and nothing for what was said before: an input is opened several times."""
    told: set[str] = set()

    def line_of(message: Warning | str, *_: Any, **__: Any) -> str:
        line = f"warning: {on_one_line(str(message))}\n"
        is_new = line not in told
        told.add(line)
        return line if is_new else ""

    return line_of


def main() -> None:
    """Run the command line; every refusal becomes three lines and its exit code."""
    debug = "--debug" in sys.argv
    collect_rarely()
    _open_streams()
    try:
        sys.exit(app(prog_name="seggeo", standalone_mode=False) or 0)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError) or not _flushed():  # typer has made an exit of it
            _leave_quietly()
        raise
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error, file=sys.stderr)
            sys.exit(ConfigError.exit_code)
        _refuse(_usage(error), ConfigError.exit_code, debug)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:
        _leave_quietly()
    except SeggeoError as error:
        _refuse(error, error.exit_code, debug)
    except MemoryError as error:
        _refuse(_OUT_OF_MEMORY, ResourceError.exit_code, debug, error)
    except Exception as error:
        if debug:
            raise
        bug = SeggeoError(
            what=f"{type(error).__name__}: {' '.join(str(error).split())}", why="this is a bug in seggeo",
            mend="run again with seggeo --debug ... and report what it prints",
        )  # fmt: skip
        _refuse(bug, 1, debug)


_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for any command line that it cannot read; it has no public name of its own."""


def _usage(error: Any) -> ConfigError:
    """The refusal of a command line that typer cannot read; JSON is asked for there too, or nowhere."""
    arguments = " ".join(sys.argv).replace("--log-format=", "--log-format ")
    if "--log-format json" in arguments or os.environ.get(logs.VARIABLE) == LogFormat.JSON:
        logs.start(LogFormat.JSON, logging.WARNING)
    usage = " ".join(error.ctx.get_usage().split()[1:]) if error.ctx else "seggeo COMMAND ..."
    return ConfigError(
        what=" ".join(error.format_message().split()), why=f"it is written {usage}",
        mend=f"see {error.ctx.command_path if error.ctx else 'seggeo'} --help",
    )  # fmt: skip


_OUT_OF_MEMORY = ResourceError(
    what="out of memory", why="the system gave no more", mend="use fewer --workers or a smaller --tile; finished tiles are kept"
)


def _open_streams() -> None:
    """Give a process that was started without standard output or error somewhere to write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives


def _refuse(error: SeggeoError, code: int, debug: bool, cause: BaseException | None = None) -> NoReturn:
    if debug:
        logging.getLogger("seggeo").exception("refused", exc_info=cause or True)
    try:
        if not logs.tell("error", {"message": error.what, "why": error.why, "fix": error.mend, "exit": code}):
            print(f"error: {three_lines(error)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _leave_quietly()
    sys.exit(code)


def _flushed() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True


def _leave_quietly() -> NoReturn:
    """End like a program that SIGPIPE has killed: whoever read the output has gone."""
    os._exit(141)
