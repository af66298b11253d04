"""Profiles: the phases of all processes together are the wall time, and what none of them had is idle."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seggeo.output.report_html_time import TimeUse, time_section
from seggeo.profiling import Spent
from seggeo.run.part import PartReport
from seggeo.run.profile import PHASES, Profiler, profile_of, told

SECONDS = st.floats(0, 1e4)
PART = st.fixed_dictionaries(dict.fromkeys(("start", "wait", "model", "encode", "store", "other"), SECONDS))


def spent(process: str = "a:1", **more: object) -> Spent:
    return Spent(process=process, **more)


@given(
    st.fixed_dictionaries(dict.fromkeys(("plan", "merge", "write", "other"), SECONDS)),
    st.lists(st.tuples(st.sampled_from("abc"), PART), max_size=6), st.floats(1.0, 2.0),
)  # fmt: skip
def test_shares_are_the_whole_of_the_wall_time(leader: dict, parts: list, slack: float):
    crew = [spent(process, seconds=seconds) for process, seconds in parts]
    processes = {process for process, _ in parts}
    busy = {p: sum(sum(seconds.values()) for q, seconds in parts if q == p) for p in processes}
    predict = slack * max(busy.values(), default=1.0)
    profile = profile_of([spent("leader", seconds={**leader, "predict": predict})], crew)

    assert tuple(profile.seconds) == PHASES
    assert profile.total_s == pytest.approx(sum(leader.values()) + predict)
    assert min(profile.seconds.values()) >= 0
    assert profile.processes == len(processes)
    if processes:
        assert profile.seconds["idle"] == pytest.approx(predict - sum(busy.values()) / len(processes), abs=1e-6)
    shares = [entry["share"] for entry in profile.to_json()["phases"].values()]
    assert sum(shares) == pytest.approx(1 if profile.total_s > 1e-6 else 0, abs=1e-3)


def test_figures_of_two_processes():
    leader = spent("a:1", seconds={"plan": 1.0, "predict": 10.0, "merge": 1.0, "write": 3.0, "other": 0.0}, memory_bytes=500)
    one = spent(
        "a:2", seconds={"model": 8.0, "wait": 2.0}, beside={"read": 6.0, "encode": 1.0}, memory_bytes=300, gpu_bytes=70,
        counts={"tiles": 2, "pixels": 2e6, "m2": 5e5},
    )  # fmt: skip
    two = spent(
        "a:3", seconds={"model": 4.0}, beside={"read": 2.0}, memory_bytes=900, counts={"tiles": 1, "pixels": 1e6, "m2": 2.5e5}
    )
    again = spent("a:3", seconds={"model": 4.0}, memory_bytes=200, gpu_bytes=40)
    values = profile_of([leader], [one, two, again]).to_json()

    assert {name: entry["seconds"] for name, entry in values["phases"].items() if entry["seconds"]} == {
        "plan": 1.0, "wait": 1.0, "model": 8.0, "idle": 1.0, "merge": 1.0, "write": 3.0,
    }  # fmt: skip
    assert (values["seconds"], values["predicting_s"], values["processes"]) == (15.0, 10.0, 2)
    assert (values["reading_s"], values["encoding_s"]) == (4.0, 0.5)
    assert (values["tiles"], values["megapixels"], values["km2"]) == (3, 3.0, 0.75)
    assert (values["megapixels_per_s"], values["megapixels_per_s_predicting"]) == (0.2, 0.3)
    assert (values["km2_per_h"], values["km2_per_h_predicting"]) == (180.0, 270.0)
    assert (values["memory_bytes"], values["memory_bytes_together"], values["gpu_bytes"]) == (900, 1700, 110)
    assert json.loads(json.dumps(values)) == values


def test_a_run_that_predicted_nothing_has_no_idle_process():
    values = profile_of([spent(seconds={"merge": 3.0, "predict": 1.0})], []).to_json()

    assert values["phases"]["idle"]["seconds"] == 0
    assert values["phases"]["other"]["share"] == 0.25
    assert (values["processes"], values["tiles"], values["megapixels_per_s"]) == (0, 0, 0)
    assert "km2" not in values


def test_a_name_that_is_no_phase_is_other_time():
    values = profile_of([spent(seconds={"predict": 4.0})], [spent(seconds={"model": 1.0, "mine": 3.0})]).to_json()

    assert (values["phases"]["model"]["share"], values["phases"]["other"]["share"]) == (0.25, 0.75)


def test_nothing_is_told_where_nobody_asked_and_parts_of_earlier_runs_say_nothing():
    reports = [
        PartReport(part=0, instances=1, notes={}, resumed=True),
        PartReport(part=1, instances=1, notes={}, spent=spent(counts={"tiles": 7}, seconds={"model": 1.0})),
    ]  # fmt: skip
    asked = Profiler(is_wanted=True)

    assert Profiler(is_wanted=False).profile(reports) is None
    assert asked.profile(reports).tiles == 7
    assert asked.profile(reports).tiles == 7, "asked twice, the same parts count once"


def test_lines_tell_every_phase_of_some_length_and_a_page_its_share():
    profile = profile_of(
        [spent("a:1", seconds={"plan": 1.0, "predict": 2.0, "write": 0.001}, memory_bytes=10**9)],
        [spent("a:1", seconds={"model": 2.0}, counts={"tiles": 1, "pixels": 4e6, "um2": 1e6})],
    )  # fmt: skip
    lines = "\n".join(told(profile.to_json()))
    page = time_section(profile.time_use())

    assert "profile: 3.00 s" in lines
    assert "model        2.00 s  66.6%  ####################" in lines
    assert "write" not in lines
    assert "1.333 Mpx/s, 1200 mm2/h; while predicting 2 Mpx/s, 1800 mm2/h" in lines
    assert "memory: 1.00 GB at the most" in lines
    assert page.count("66.6%") == 2
    assert "1200 mm²/h" in page


def test_a_page_has_no_section_without_a_profile_and_its_words_are_escaped():
    assert time_section(None) == ""
    assert time_section(TimeUse(seconds={})) == ""
    page = time_section(TimeUse(seconds={"<b>": 1.0, "model": 3.0}, facts={"<i>": "a & b"}), "h3")

    assert page.startswith("<h3>Where the time went</h3>")
    assert "<b>" not in page
    assert "<i>" not in page
    assert "a &amp; b" in page
