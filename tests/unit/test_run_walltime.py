"""What batch systems say of a job's end, and when to stop because of it."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from seggeo.run.walltime import MARGIN_S, limit_of

SHOWN = "JobId=7 ArrayJobId=5 ArrayTaskId=2 TimeLimit=01:00:00 EndTime={} Deadline=N/A SuspendTime=None"


def shown(seconds: float) -> str:
    """What the controller prints of a job that ends after some seconds."""
    return SHOWN.format(datetime.fromtimestamp(time.time() + seconds).isoformat(timespec="seconds"))


def nobody(_: str) -> str:
    raise AssertionError("nobody is to be asked")


def test_slurms_controller_says_when_the_job_ends():
    found = limit_of({"SLURM_JOB_ID": "7"}, ask=lambda job: shown(3600) if job == "7" else "")

    assert found is not None
    assert abs(found.seconds - (3600 - MARGIN_S)) < 3
    assert found.why == "SLURM ends this job in 1 h 0 min"


def test_slurms_variable_is_believed_without_asking():
    found = limit_of({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 600)}, ask=nobody)

    assert found is not None
    assert abs(found.seconds - (600 - MARGIN_S)) < 3


def test_torque_says_how_long():
    found = limit_of({"PBS_WALLTIME": "7200"}, ask=nobody)

    assert found is not None
    assert (found.seconds, found.why) == (7200 - MARGIN_S, "PBS ends this job in 2 h 0 min")


@pytest.mark.parametrize(("left", "stop"), [(100, 50), (20, 10), (-5, 1)])
def test_short_jobs_keep_half_of_their_time(left: int, stop: int):
    found = limit_of({"SLURM_JOB_ID": "7"}, ask=lambda _: shown(left))

    assert found is not None
    assert abs(found.seconds - stop) <= 1


@pytest.mark.parametrize(
    ("environment", "answer"),
    [({}, ""), ({"SLURM_JOB_ID": ""}, ""), ({"SLURM_JOB_ID": "7"}, ""), ({"SLURM_JOB_ID": "7"}, SHOWN.format("Unknown")),
     ({"PBS_WALLTIME": "soon"}, ""), ({"PBS_WALLTIME": "0"}, "")],
)  # fmt: skip
def test_where_nobody_says_it_there_is_no_limit(environment: dict[str, str], answer: str):
    assert limit_of(environment, ask=lambda _: answer) is None
