"""Scripts for batch systems: an array that predicts a batch's shards, and a merge that waits for it.

Each has its jobs told before they are killed, or stop by themselves; `seggeo run` then saves what it has and ends with 75,
and the script has itself put back into the queue. The merge runs whatever became of the array and says what is missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seggeo.errors import ConfigError
from seggeo.run import scripts
from seggeo.run.batch import Batch
from seggeo.store import publish

_MAX_ARRAY = 1000
_SUBMIT = "submit.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class _System:
    """One batch system: what is written for it."""

    suffix: str
    array: str
    merge: str
    submit: str
    some: str
    """Option that submits some shards alone; empty where the whole array is submitted again: done shards end at once."""


_SYSTEMS = {
    "slurm": _System(
        suffix="sbatch", array=scripts.SLURM_ARRAY, merge=scripts.SLURM_MERGE, submit=scripts.SLURM_SUBMIT, some="--array={}"
    ),
    "pbs": _System(suffix="pbs", array=scripts.PBS_ARRAY, merge=scripts.PBS_MERGE, submit=scripts.PBS_SUBMIT, some=""),
    "lsf": _System(
        suffix="lsf", array=scripts.LSF_ARRAY, merge=scripts.LSF_MERGE, submit=scripts.LSF_SUBMIT, some="-J 'seggeo[{}]'"
    ),
    "sge": _System(suffix="sge", array=scripts.SGE_ARRAY, merge=scripts.SGE_MERGE, submit=scripts.SGE_SUBMIT, some=""),
}
KINDS = (*_SYSTEMS, "list")
"""Batch systems by name; `list` is for none: a command a line."""


def check_kind(kind: str, shards: int) -> None:
    """Refuse a batch system nobody here knows, and more shards than an array may have.

    Raises:
        ConfigError: It is so.
    """
    if kind not in KINDS:
        raise ConfigError(
            what=f"there is no batch system called {kind!r}", why=f"known are {', '.join(KINDS)}", mend="use --emit slurm"
        )
    if shards > _MAX_ARRAY and kind != "list":
        raise ConfigError(
            what=f"an array of {shards} jobs", why=f"batch systems allow {_MAX_ARRAY} or fewer",
            mend=f"plan with --shards {_MAX_ARRAY}",
        )  # fmt: skip


def write_script(batch: Batch, kind: str) -> tuple[str, str]:
    """Write the scripts into the batch's folder; the command that submits them, and a word about what to adapt.

    Raises:
        ConfigError: Of the kind, or of more shards than an array may have.
    """
    check_kind(kind, batch.shards)
    if kind == "list":
        return _list(batch)
    system, words = _SYSTEMS[kind], _words(batch)
    (batch.folder / "logs").mkdir(exist_ok=True)
    array = _write(batch, f"array.{system.suffix}", _filled(system.array, words))
    _write(batch, f"merge.{system.suffix}", _filled(system.merge, {**words, "VERB": "merge", "TASK": "$SLURM_JOB_ID"}))
    submit = _write(batch, _SUBMIT, _filled(system.submit, words))
    return f"sh {shlex.quote(str(submit))}", f"first adapt the head of {array}: time, partition or queue, account, GPU"


def resubmission(batch: Batch, missing: Sequence[int]) -> str:
    """The words that predict missing shards, numbered from 1; with the batch's own script where there is one."""
    listed = ranges(missing)
    for system in _SYSTEMS.values():
        if (batch.folder / f"array.{system.suffix}").exists():
            again = f"sh {shlex.quote(str(batch.folder / _SUBMIT))}"
            return (
                f"{again} {system.some.format(listed)}" if system.some else f"{again} (shards {listed}; the others end at once)"
            )
    job = shlex.quote(str(batch.folder))
    if len(missing) == 1:
        return f"seggeo run {job} --part {listed}/{batch.shards}"
    return f"seggeo run {job} --part N/{batch.shards} for N in {listed}"


def ranges(numbers: Sequence[int]) -> str:
    """`1-3,7` for 1, 2, 3 and 7, as batch systems write arrays."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _words(batch: Batch) -> dict[str, str]:
    """What stands for the words between @."""
    facts, execution = batch.facts, batch.execution
    named = (execution.devices or "").count(",") + 1  # all are as many as the job is given
    gpus = named if execution.devices or execution.device.startswith("cuda") else 0
    return {
        "SEGGEO": shlex.quote(_program()), "JOB": shlex.quote(str(batch.folder.absolute())), "CWD": shlex.quote(os.getcwd()),
        "VERB": "run", "TASK": "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}", "SHARDS": str(batch.shards),
        "PBS_SHARDS": str(max(2, batch.shards)), "MEMORY": str(int(facts["memory_bytes"] / 1e6 * 1.2) + 300),
        "MERGE_HOURS": str(min(24, 1 + facts["tiles"] // 50_000 + len(batch.folders) // 60)),
        "GPU": f"#SBATCH --gres=gpu:{gpus}" if gpus else "##SBATCH --gres=gpu:1",
    }  # fmt: skip


def _filled(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"@{name}@", word)
    return text


def _program() -> str:
    """The running seggeo, for a shell without this one's PATH."""
    beside = Path(sys.executable).with_name("seggeo")
    return str(beside if beside.exists() else shutil.which("seggeo") or "seggeo")


def _write(batch: Batch, name: str, text: str) -> Path:
    path = batch.folder.absolute() / name
    publish(path, text.encode())
    path.chmod(0o755)
    return path


def _list(batch: Batch) -> tuple[str, str]:
    """A command a line, one process each."""
    program, job = shlex.quote(_program()), shlex.quote(str(batch.folder.absolute()))
    lines = (f"{program} run {job} --workers 1 --part {n}/{batch.shards}\n" for n in range(1, batch.shards + 1))
    path = shlex.quote(str(_write(batch, "commands.txt", "".join(lines))))
    # NUL between lines: xargs would take the quotes in them for its own.
    return f"tr '\\n' '\\0' < {path} | xargs -0 -P $(nproc) -n 1 sh -c", f"then: {program} merge {job}"
