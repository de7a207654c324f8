"""Where the time of a run goes: named spans of wall time, as a table and as a trace for a browser.

Spans are always measured (two microseconds each); `report.profile` decides whether a run records them.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPAN_SEPARATOR = " / "

_open_span = ContextVar("_open_span", default="")  # path of the open span, one per thread
_profile_start = time.perf_counter()
_is_first_profile = True
_spans: list["Span"] = []


@dataclass(frozen=True)
class Span:
    """A stretch of time: its name after those of the enclosing spans, and its start since that of the profile."""

    path: str
    start: float
    seconds: float
    thread: int


@contextmanager
def span(name: str) -> Iterator[None]:
    """Measure the time of a block or, as a decorator, of each call; not across the `yield` of a generator."""
    within = _open_span.get()
    path = f"{within}{SPAN_SEPARATOR}{name}" if within else name
    token, start = _open_span.set(path), time.perf_counter()
    try:
        yield
    finally:
        end = time.perf_counter()
        _open_span.reset(token)
        _spans.append(Span(path, start - _profile_start, end - start, threading.get_native_id()))


def begin_profile() -> None:
    """Discard earlier spans, as a run begins. The first run of a process began with the process."""
    global _profile_start, _is_first_profile
    _profile_start = time.perf_counter()
    _spans.clear()
    if _is_first_profile and (age := _process_age()):
        _profile_start -= age
        _spans.append(Span("Python, Hydra, config", 0.0, age, threading.get_native_id()))
    _is_first_profile = False


def _process_age() -> float | None:
    """Return the seconds since this process was started, None where there is no /proc."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def profile_table() -> dict[str, list[Any]]:
    """Return the spans of this thread as columns, with a row for each path in the order of their start.

    Columns are phase, times, seconds, own_seconds (without enclosed spans) and percent (of the time until now). The
    last row is the time outside all spans, so that own_seconds add up to the whole.
    """
    whole = time.perf_counter() - _profile_start
    mine = [item for item in _spans if item.thread == threading.get_native_id()]
    times = Counter(item.path for item in sorted(mine, key=lambda item: (item.start, len(item.path))))
    seconds = {path: sum(item.seconds for item in mine if item.path == path) for path in times}
    own = dict(seconds)
    for path in filter(lambda path: SPAN_SEPARATOR in path, seconds):
        own[path.rpartition(SPAN_SEPARATOR)[0]] -= seconds[path]
    rest = whole - sum(own.values())
    spent = [*seconds.values(), rest]
    return {
        "phase": [*seconds, "between these"],
        "times": [*times.values(), 1],
        "seconds": [round(value, 4) for value in spent],
        "own_seconds": [round(value, 4) for value in [*own.values(), rest]],
        "percent": [round(100 * value / whole, 1) for value in spent],
    }


def trace_page() -> str:
    """Return the trace as a self-contained HTML page."""
    events = json.dumps(json.loads(trace_events())["traceEvents"]).replace("<", "\\u003c")
    return Path(__file__).with_name("trace.html").read_text().replace("/*EVENTS*/[]", events)


def trace_events() -> str:
    """Return all spans as Chrome trace events (JSON), for https://ui.perfetto.dev and other tools."""
    events = []
    for item in sorted(_spans, key=lambda item: item.start):
        names, times = item.path.split(SPAN_SEPARATOR), {"ts": item.start, "dur": item.seconds}
        times = {key: round(1e6 * seconds, 1) for key, seconds in times.items()}  # in microseconds
        events.append({"name": names[-1], "cat": names[0], "ph": "X", **times, "pid": os.getpid(), "tid": item.thread})
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})
