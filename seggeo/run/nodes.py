"""What each process that predicts a batch tells of itself, a line of JSON for each part, and what that says together.

Each writes a file of its own, so that nobody waits for anybody. Times are those of each machine's own clock: good for
rates, and never for a decision.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from seggeo.run.part import PartReport


class NodeLog:
    """One process's own file."""

    def __init__(self, folder: Path, shard: tuple[int, int]) -> None:
        host = re.sub(r"[^A-Za-z0-9.-]", "", socket.gethostname())[:60] or "host"
        self.path = folder / f"{host}-{os.getpid()}-{shard[0]}of{shard[1]}.jsonl"
        self._host = host
        self._write({"event": "start", "shard": list(shard)})

    def part(self, item: int, report: PartReport) -> None:
        """A part is done."""
        notes = report.notes
        self._write({
            "event": "part", "item": item, "part": report.part, "tiles": notes["tiles"], "empty": notes["empty"],
            "capped": notes["capped"], "failures": len(notes["failures"]), "readings": report.instances,
        })  # fmt: skip

    def end(self, code: int) -> None:
        """The process ends, with this exit code."""
        self._write({"event": "end", "code": code})

    def _write(self, values: dict[str, Any]) -> None:
        told = {"host": self._host, "pid": os.getpid(), "time": round(time.time(), 2), "memory_bytes": peak_memory()}
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:  # never worth losing a part
            file.write(json.dumps({**told, **values}) + "\n")


def peak_memory() -> int:
    """Most memory that this process, or the largest of its children that has ended, has held, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def read_logs(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The lines of every process; torn ones are left out."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = []
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    lines.append(json.loads(line))
        if lines:
            yield lines
