"""Spans of wall time: nesting, the table and the trace."""

import json
import threading
import time

import pytest

from experiments.profiling import begin_profile, profile_table, span, trace_events


@pytest.fixture(autouse=True)
def profile() -> None:
    begin_profile()
    begin_profile()  # the first of a process also counts the process's start


def test_spans_nest_and_their_own_seconds_add_up() -> None:
    before = time.perf_counter()
    begin_profile()
    began = time.perf_counter()
    with span("epoch"):
        for _ in range(2):
            with span("steps"):
                time.sleep(0.01)
    ended = time.perf_counter()
    columns = profile_table()
    after = time.perf_counter()
    assert columns["phase"] == ["epoch", "epoch / steps", "between these"]
    assert columns["times"] == [1, 2, 1]
    assert columns["seconds"][1] >= 0.02
    assert columns["own_seconds"][0] == pytest.approx(columns["seconds"][0] - columns["seconds"][1], abs=1e-3)
    assert ended - began <= sum(columns["own_seconds"]) + 1e-3
    assert sum(columns["own_seconds"]) <= after - before + 1e-3


def test_decorated_function_is_a_span_for_every_call_even_if_it_fails() -> None:
    @span("data")
    def load(fails: bool) -> int:
        if fails:
            raise ValueError("no data")
        return 7

    assert load(fails=False) == 7
    with pytest.raises(ValueError, match="no data"):
        load(fails=True)
    assert profile_table()["times"] == [2, 1]


def test_trace_has_the_fields_of_chrome_events_and_a_row_per_thread() -> None:
    def work() -> None:
        with span("importing"):
            pass

    with span("training"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    outer, inner = json.loads(trace_events())["traceEvents"]
    assert (outer["name"], inner["name"]) == ("training", "importing")
    assert outer["tid"] != inner["tid"]
    assert outer["ts"] <= inner["ts"] <= inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 0.2
    assert {outer["ph"], inner["ph"]} == {"X"}
    assert "training / importing" not in profile_table()["phase"]


def test_new_profile_forgets_the_last_one() -> None:
    with span("old"):
        pass
    begin_profile()
    assert profile_table()["phase"] == ["between these"]
