"""What `seggeo segment` says: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from unicodedata import category

from seggeo.errors import SeggeoError
from seggeo.run.logs import tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What is said, and where."""

    quiet: bool
    verbose: bool
    json: bool
    out: TextIO
    """Standard output, for results alone."""

    def say(self, line: str) -> None:
        """A line for people."""
        if not self.quiet:
            print(on_one_line(line), file=sys.stderr)

    def warn(self, line: str) -> None:
        """A line that `--quiet` does not silence."""
        print(f"warning: {on_one_line(line)}", file=sys.stderr)

    def result(self, values: dict[str, Any]) -> None:
        """One line of JSON, if asked for."""
        if self.json:
            print(json.dumps(values), file=self.out, flush=True)

    def failed(self, name: str, error: SeggeoError) -> None:
        """The result of an input that failed."""
        values = {"what": error.what, "why": error.why, "fix": error.mend, "exit": error.exit_code}
        self.result({"input": name, "error": values})

    def error(self, error: SeggeoError, name: str) -> None:
        """One input's refusal among several."""
        values = {"message": error.what, "why": error.why, "fix": error.mend, "exit": error.exit_code, "input": name}
        if tell("error", values):
            return
        print(f"error: {on_one_line(name)}: {three_lines(error)}", file=sys.stderr)

    def summary(self, values: dict[str, Any], *, is_new: bool) -> None:
        """The closing words: for people, and as a result."""
        if not is_new:
            self.say("  done already: an earlier run of this very job wrote everything")
        self._counts(values)
        if values["capped_tiles"]:
            self.warn(
                f"{values['capped_tiles']} tiles reached a limit of the model, so objects may be missing: "
                "raise the limit with --set, or use a smaller --tile"
            )
        if values["failed_tiles"]:
            self.warn(f"{values['failed_tiles']} of {values['tiles']} tiles failed: {first_failure(values)}")
        self._files(values)
        self.profile(values.get("profile"))
        self.result(values)

    def profile(self, values: Mapping[str, Any] | None) -> None:
        """Where the time went, if that was counted."""
        if values is None or self.quiet or tell("info", {"message": "profile", "profile": values}):
            return
        from seggeo.run.profile import told

        for line in told(values):
            self.say(line)

    def _counts(self, values: dict[str, Any]) -> None:
        r = values["readings"]
        self.say(
            f"{values['objects']} objects from {values['tiles'] - values['empty_tiles']} tiles "
            f"({values['empty_tiles']} empty) in {values['seconds']} s"
        )
        self.say(
            f"  {r['inputs']} readings = {r['kept']} kept + {r['merged']} merged + {r['duplicates']} duplicates "
            f"+ {r['orphans']} orphans + {r['hidden']} hidden"
        )
        if r["filtered"]:
            self.say(f"  {r['filtered']} objects left out by --min-area or --min-score")

    def _files(self, values: dict[str, Any]) -> None:
        from seggeo.run.naming import OPENS_WITH

        for kind, path in values["outputs"].items():
            self.say(f"  {path}  (open with {OPENS_WITH.get(kind, kind)})")
        if values["report"]:
            self.say(f"  {values['report']}  (look at it first)")
        elif values["preview"]:
            self.say(f"  {values['preview']}  (look at it first)")
        self.say(f"  {values['provenance']}  (how it was made)")
        if self.verbose:
            self.say(f"  {values['work']}  (finished tiles; delete it when you are done)")


def three_lines(error: SeggeoError) -> str:
    """A refusal in three lines, whatever characters are in the names it tells."""
    return "\n".join((on_one_line(error.what), f"  why: {on_one_line(error.why)}", f"  fix: {on_one_line(error.mend)}"))


def on_one_line(text: str) -> str:
    """Text with its control characters written out."""
    return "".join(repr(letter)[1:-1] if category(letter) == "Cc" else letter for letter in text)


def first_failure(values: dict[str, Any]) -> str:
    """Where the first tile of a summary's failures lies and what it said, on one line."""
    line = (Path(values["work"]) / "failures.jsonl").read_text(encoding="utf-8").split("\n", 1)[0]
    failure = json.loads(line)
    message = str(failure["message"]).split("\n", 1)[0]
    return f"the first, at row {failure['row']} col {failure['col']}: {failure['error']}: {message}"
