"""Repeat recorded runs and published configs, and report whether the results are the same.

python scripts/reproduce.py RUN_ID                  repeat a recorded run and compare every metric at every epoch
python scripts/reproduce.py RUN_ID --export FILE    write the run to one file, which can be repeated without its store
python scripts/reproduce.py FILE                    repeat the run in such a file
python scripts/reproduce.py RUN_ID | FILE data.path=FOLDER    with the data in another folder
python scripts/reproduce.py NAME [KEY=VALUE ...]    run a published config of conf/experiment/ over its seeds
python scripts/reproduce.py --all                   all published configs; finished runs are not repeated
python scripts/reproduce.py --all --quick           their shrunk versions, which have their own expected results
python scripts/reproduce.py --all --table docs/published.md    and write the table of results into a document

Exit code: 0 if the results are reproduced, 1 if not or if the record was changed, 2 if it could not be tried.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from experiments.config.overrides import override_key
from experiments.config.own_code import add_code_option, load_own_code
from experiments.config.schema import Expectation
from experiments.errors import CommandParser, ConfigError, Terminated, did_you_mean, handle_ending_signals, run_command
from experiments.formatting import as_called, called_as_tool, plain_console, printable
from experiments.reproduction import published
from experiments.reproduction.bundle import read_bundle, write_bundle
from experiments.reproduction.original_run import OriginalRun, find_original_run, with_moved_data
from experiments.reproduction.published import PublishedConfig, PublishedOutcome, find_published, show_metric
from experiments.reproduction.rerun import TOLERANCE_TEXT, MetricRow, RerunVerdict, judge_rerun, repeat_run
from experiments.runtime import collect_garbage_rarely, this_command


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("what", metavar="RUN_ID | FILE | NAME", nargs="?", help="a run id or unique prefix, a file, or a config")
    add("overrides", metavar="KEY=VALUE", nargs="*", help="overrides of a published config")
    add("--all", action="store_true", help="run every published config that has recorded results")
    add("--quick", action="store_true", help="run the shrunk version of a published config")
    add("--export", metavar="FILE", type=Path, help="write the run to this file and do not run it")
    add("--table", metavar="FILE", type=Path, help="with --all: the document to write the table into")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add_code_option(parser)
    handle_ending_signals()

    def command() -> int:
        options = parser.parse_intermixed_args()
        load_own_code(options.code)
        if options.all and options.what and "=" in options.what:
            options.what, options.overrides = None, [options.what, *options.overrides]
        if options.all == bool(options.what):
            parser.error("give one of RUN_ID, FILE, NAME and --all")
        if options.table and (not options.all or options.quick):
            parser.error("--table needs --all, without --quick")
        is_published = options.all or options.what in published.published_expectations()
        folders = [override for override in options.overrides if override_key(override) == "data.path"]
        if not is_published and (options.quick or options.overrides != folders or (folders and options.export)):
            parser.error("--quick and KEY=VALUE need NAME or --all; of a recorded run only data.path can be changed")
        if is_published and options.export:
            parser.error("--export needs RUN_ID")
        if options.all:
            return reproduce_all(options.overrides, options.quick, options.uri, options.table)
        if is_published:
            return reproduce_published(find_published(options.what, options.overrides, options.uri, options.quick))
        if options.export:
            write_bundle(options.what, options.uri, options.export)
            place = "wherever this tool is installed" if called_as_tool() else "with any clone of this project"
            print(f"Repeat it {place}: {as_called('python scripts/reproduce.py')} {options.export}")
            return 0
        original = find_original(options.what, options.uri)
        return reproduce_run(with_moved_data(original, folders[-1]) if folders else original)

    return run_command(command)


def print_table(headings: Iterable[str], rows: Iterable[tuple[str, ...]], red: Iterable[int] = ()) -> None:
    """Print a table with its first column to the left and the others to the right, some of its rows in red."""
    from rich import box
    from rich.table import Column, Table

    first, *others = headings
    columns = [Column(heading, justify="right") for heading in others]
    table = Table(first, *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for number, row in enumerate(rows):
        table.add_row(*row, style="red" if number in red else None)
    plain_console().print(table)


def find_original(what: str, uri: str | None) -> OriginalRun:
    """Find the run with this id or in this file; raise a UserError if there is none or it cannot be read."""
    if os.path.isfile(what):  # noqa: PTH113 (Path.is_file raises for names that are too long)
        return read_bundle(Path(what), uri)
    if set(what.lower()) - set("0123456789abcdef"):
        names = published.published_expectations()
        said = f"{what!r} is not a file, the id of a run or a published config{did_you_mean(what, names)}"
        raise ConfigError(f"{said}. Published configs: {', '.join(names)}")
    return find_original_run(what, uri)


def reproduce_run(original: OriginalRun) -> int:
    """Repeat a run; print to stderr what differs from its record, and to stdout the comparison."""
    print(f"Repeating run {original.run.run_id} ({original.run.name}) from its recorded config.")
    for change in original.environment_changes():
        print(f"Differs from the recorded run: {printable(change)}", file=sys.stderr)
    for change in original.record_changes():
        print(f"The record was changed after the run: {printable(change)}.", file=sys.stderr)
    new_id = repeat_run(original)
    if not new_id:
        return 0
    verdict = judge_rerun(original, new_id)
    print_verdict(verdict)
    return 0 if verdict.reproduced else 1


def print_verdict(verdict: RerunVerdict) -> None:
    """Print the metrics of both runs, the tolerance and the verdict."""
    rows = [
        (row.metric, *("-" if value is None else f"{value:.6g}" for value in (row.recorded, row.repeated)), gap(row))
        for row in verdict.rows
    ]
    different = [row.metric for row in verdict.rows if not row.equal]
    red = [number for number, row in enumerate(verdict.rows) if not row.equal]
    print_table(("metric", "recorded", "this run", "largest difference"), rows, red)
    for change in verdict.machine_changes:
        print(f"Differs from the recorded run: {printable(change)}")
    if verdict.exact:
        print("Required: equal to the last bit, as machine, threads, versions and code match the recorded run.")
    else:
        print(f"Required: within {TOLERANCE_TEXT}; machine, threads, versions or code differ from the recorded run.")
    for change in verdict.record_changes:
        print(f"The record was changed after the run: {printable(change)}.")
    different += ["the model"] if verdict.same_weights is False else []
    if different:
        print(f"Different: {', '.join(different)}.")
    print("Reproduced." if verdict.reproduced else "Not reproduced.")


def gap(row: MetricRow) -> str:
    if row.difference is None:
        return "different epochs"
    return f"{row.difference:.3g} in epoch {row.epoch}" if row.difference else "0"


def reproduce_published(config: PublishedConfig) -> int:
    """Run the seeds that are not done; print the published, the recorded and the new results."""
    outcome = published.judge_published(config, config.run_all())
    assert outcome is not None  # all seeds are finished
    print_outcome(config, outcome)
    return {True: 0, False: 1, None: 2}[outcome.reproduced]


def print_outcome(config: PublishedConfig, outcome: PublishedOutcome) -> None:
    """Print the published, the recorded and the new results, and the verdict."""
    expected, metric = config.expected, config.expected.metric
    name, deviation = ("recorded, shrunk", None) if config.quick else ("recorded", expected.standard_deviation)
    rows = [
        ("published", expected.published, None, 0, published.AS_PUBLISHED),
        (name, config.mean, deviation, 0 if config.mean is None else config.recorded_seeds, ".3f"),
        ("measured now", outcome.mean, outcome.standard_deviation, len(outcome.values), ".3f"),
    ][config.quick :]  # nothing is published of a shrunk version
    shown = [
        (name, show_metric(metric, mean, form), show_metric(metric, deviation), str(seeds or "-"))
        for name, mean, deviation, seeds, form in rows
    ]
    print_table((metric, "mean", "standard deviation", "seeds"), shown)
    for change in published.version_changes(expected):
        print(f"Differs from the recorded results: {change}")
    if outcome.reached is not None:
        print(f"The published number is {'' if outcome.reached else 'not '}reached.")
    if config.mean is None or config.tolerance is None:
        print(f"{config.not_comparable or 'There is no recorded result'}, so there is nothing to compare with.")
        return
    apart, allowed = (show_metric(metric, value) for value in (abs(outcome.mean - config.mean), config.tolerance))
    print(f"The mean differs from the recorded one by {apart}; the tolerance is {allowed}.")
    print("Reproduced." if outcome.reproduced else "Not reproduced.")


def reproduce_all(overrides: list[str], quick: bool, uri: str | None, document: Path | None) -> int:
    """Run each published config in its own process, because TensorFlow sets its threads once per process."""
    stated = published.published_expectations()
    if document:
        published.check_document(document)
        keys = {field.name for field in dataclasses.fields(Expectation)}
        for name in [name for name, values in stated.items() if overrides or values.keys() != keys]:  # or incomplete
            if reason := find_published(name, overrides).not_comparable:
                said = f"{reason}, which has no place in the table"
                raise ConfigError(f"{said}. Leave out --table or: {' '.join(overrides)}")
    result = "quick" if quick else "mean"
    verdicts = {name: "nothing to compare with" for name, said in stated.items() if said.get(result, "") is None}
    options = [*(["--quick"] if quick else []), *(["--uri", uri] if uri else [])]
    codes = set()
    for name in [name for name in stated if name not in verdicts]:
        print(f"\n{name}", flush=True)
        with subprocess.Popen([*this_command(), name, *overrides, *options]) as process:
            try:
                code = process.wait()
            except (KeyboardInterrupt, Terminated) as end:
                process.terminate()
                process.wait()  # it prints the reason
                return end.exit_code if isinstance(end, Terminated) else 130
        if code > 128:  # a signal ended it
            return code
        codes.add(code)
        verdicts[name] = {0: "reproduced", 1: "not reproduced"}.get(code, "could not be tried")
    if document:
        published.write_table(document, [find_published(name, overrides, uri) for name in stated])
    print("", *(f"{name}: {verdicts[name]}" for name in stated), sep="\n")
    return 1 if 1 in codes else 2 if codes != {0} else 0
