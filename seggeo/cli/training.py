"""What `seggeo train` says while it runs, and how it is stopped: after the step in hand, with the state saved."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seggeo.cli.talk import Talk
from seggeo.errors import StoppedError

_SPEED_AFTER_S = 30.0


def run(events: Generator[Any, None, None], out: Path, talk: Talk) -> None:
    """Train with a bar where someone looks, a line for each validation, and on standard output its JSON where asked for.

    Raises:
        StoppedError: A signal came; the same command goes on.
    """
    from seggeo.train.schedule import Progress
    from seggeo.train.session import Epoch, Started

    finished, best = False, None
    with _stopping(out) as stop, closing(events), closing(_Bar(talk=talk)) as bar:
        for event in events:
            # Only a validation may be broken off anywhere: its state is on disk. A step may not.
            stop.defers = not (isinstance(event, Progress) and event.is_epoch)
            if isinstance(event, Started):
                finished, best = event.is_finished, event.best
                talk.say(_introduction(event))
            elif isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, Epoch):
                best = event.best
                bar.say(_judged(event))
                talk.result(_as_json(event))
            stop.heed()
        stop.defers = False
    if finished:
        talk.say("it is finished: its budget is used up; a longer --minutes or --steps goes on")
    _farewell(out, talk, best)


def _farewell(out: Path, talk: Talk, best: Any) -> None:
    from seggeo.train import folder

    if best is not None:
        scores = [f", {name} {value:.3f}" for name, value in (("PQ", best.pq), ("AP50", best.ap50)) if value is not None]
        talk.say(f"the best validation was at batch {best.step}{''.join(scores)}; the weights are those")
    talk.say(f"weights {out / folder.WEIGHTS}, curves {out / folder.CURVES}, pictures {out / folder.PICTURES}")
    talk.say(f"use them: seggeo segment IMAGE --weights {shlex.quote(str(out / folder.WEIGHTS))}")


@dataclass(slots=True, kw_only=True)
class _Bar:
    """A bar on a terminal; elsewhere one line, after half a minute, about the speed."""

    talk: Talk
    _bar: Any = None
    _began: tuple[float, int] | None = None
    """Seconds of learning and batches when it was first shown."""
    _told: bool = False

    def show(self, progress: Any) -> None:
        """A step is done."""
        if self._began is None:
            self._began = progress.seconds - progress.judged_s, progress.step
            if not self.talk.quiet and sys.stderr.isatty():
                self._bar = self._opened()
        if self._bar is not None:
            self._bar.n = round(100 * progress.share, 1)
            self._bar.set_postfix_str(f"batch {progress.step}, loss {sum(progress.losses.values()):.3f}")
            return
        passed, steps = progress.seconds - progress.judged_s - self._began[0], progress.step - self._began[1]
        if not self._told and passed > _SPEED_AFTER_S and steps:
            self._told = True
            self.talk.say(f"{steps / passed:.2f} batches a second; {100 * progress.share:.0f} % of the budget is used up")

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            self.talk.say(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    @staticmethod
    def _opened() -> Any:
        from tqdm import tqdm

        layout = "{l_bar}{bar}| {elapsed}{postfix}"
        return tqdm(total=100, unit="%", file=sys.stderr, leave=False, dynamic_ncols=True, bar_format=layout)


def _introduction(started: Any) -> str:
    again = f", going on from batch {started.step} after {started.seconds / 60:.1f} min" if started.step else ""
    return (
        f"{started.parameters / 1e6:.1f} M parameters learn {', '.join(started.classes)} from {started.objects} objects in "
        f"{started.train} images, judged by {started.val} ({started.rule}){again}"
    )


def _judged(event: Any) -> str:
    p, metrics = event.progress, event.judgement.metrics
    scores = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if value is not None)
    return f"batch {p.step}, {p.seconds / 60:.1f} min: loss {sum(p.losses.values()):.4f}, {scores}"


def _as_json(event: Any) -> dict[str, Any]:
    p = event.progress
    return {"step": p.step, "losses": p.losses, **event.judgement.metrics, "is_best": event.best.step == p.step}


class _Stop(BaseException):
    """Raised by a signal; no Exception, so that nothing takes it for a failure of its own."""


@dataclass(slots=True)
class _Asked:
    """Whether a signal has come, and whether it has to wait."""

    defers: bool = False
    names: list[str] = field(default_factory=list)

    def hear(self, number: int, _: Any) -> None:
        """The signal handler; who asks twice does not want to wait."""
        self.names.append(signal.Signals(number).name)
        if not self.defers or len(self.names) > 1:
            raise _Stop

    def heed(self) -> None:
        """Stop if a signal came meanwhile."""
        if self.names:
            raise _Stop


@contextmanager
def _stopping(out: Path) -> Iterator[_Asked]:
    """Turn SIGINT, SIGTERM and the warnings of batch systems into a stop with the state saved.

    Raises:
        StoppedError: A signal came.
    """
    asked = _Asked()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    before = {number: signal.signal(number, asked.hear) for number in numbers}
    try:
        yield asked
    except _Stop:
        from seggeo.train import folder

        kept = f"the state is in {out / folder.STATE}" if (out / folder.STATE).exists() else "nothing had been learnt yet"
        raise StoppedError(
            what=f"stopped by {asked.names[0]}", why=kept,
            mend=f"go on with the same command: {shlex.join(['seggeo', *sys.argv[1:]])}",
        ) from None  # fmt: skip
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
