"""Runs again what was run before, here or by whoever published it, and says whether the same comes out.

python scripts/reproduce.py RUN_ID                  a recorded run: from its own config, every metric at every epoch
python scripts/reproduce.py RUN_ID --export FILE    that run as one file, to be run again without its store
python scripts/reproduce.py FILE                    a run from such a file
python scripts/reproduce.py RUN_ID | FILE data.path=FOLDER    with the data where it is now
python scripts/reproduce.py NAME [KEY=VALUE ...]    a published config of conf/experiment/: its mean over seeds
python scripts/reproduce.py --all                   all of those; what is done is not done again
python scripts/reproduce.py --all --quick           their shrunk versions, which have results of their own
python scripts/reproduce.py --all --table docs/published.md    and puts the table of the results into a document

The exit code is 0 if it was reproduced, 1 if not, or if its record was changed, 2 if it could not be tried.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from experiments.config.expected_schema import Expectation
from experiments.errors import ConfigError, Terminated, did_you_mean, raise_terminated, run_command
from experiments.formatting import printable
from experiments.reproduction.bundle import read_bundle, write_bundle
from experiments.reproduction.published import (
    AS_PUBLISHED,
    PublishedConfig,
    PublishedOutcome,
    find_published,
    judge_published,
    published_expectations,
    show_metric,
    version_changes,
)
from experiments.reproduction.published_table import check_document, write_table
from experiments.reproduction.record import Record, find_record, with_moved_data
from experiments.reproduction.rerun import TOLERANCE_TEXT, MetricRow, RerunVerdict, judge_rerun, rerun_record
from experiments.runtime import collect_garbage_rarely


def main() -> int:
    collect_garbage_rarely()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="RUN_ID | FILE | NAME", nargs="?", help="a run by the beginning of its id, ...")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="overrides of a published config")
    parser.add_argument("--all", action="store_true", help="every published config that was measured")
    parser.add_argument("--quick", action="store_true", help="the shrunk version of a published config")
    parser.add_argument("--export", metavar="FILE", type=Path, help="write the run to this file instead of running it")
    parser.add_argument("--table", metavar="FILE", type=Path, help="with --all: a document to put the table into")
    parser.add_argument("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    options = parser.parse_intermixed_args()
    if options.all and options.what and "=" in options.what:
        options.what, options.overrides = None, [options.what, *options.overrides]
    if options.all == bool(options.what):
        parser.error("give one of RUN_ID, FILE, NAME and --all")
    if options.table and (not options.all or options.quick):
        parser.error("--table goes with --all, without --quick")
    is_published = options.all or options.what in published_expectations()
    folders = [override for override in options.overrides if override.startswith("data.path=")]
    if not is_published and (options.quick or options.overrides != folders or (folders and options.export)):
        parser.error(
            "--quick and KEY=VALUE go with NAME and --all; a recorded run is repeated as it was, but for data.path"
        )
    if is_published and options.export:
        parser.error("--export goes with RUN_ID")
    signal.signal(signal.SIGTERM, raise_terminated)

    def command() -> int:
        if options.all:
            return every(options.overrides, options.quick, options.uri, options.table)
        if is_published:
            return over_seeds(find_published(options.what, options.overrides, options.uri, options.quick))
        if options.export:
            write_bundle(options.what, options.uri, options.export)
            print(f"Run it again, with any clone of this project: python scripts/reproduce.py {options.export}")
            return 0
        run = recorded(options.what, options.uri)
        return again(with_moved_data(run, folders[-1]) if folders else run)

    return run_command(command)


# --- a recorded run -------------------------------------------------------------------------------------------------


def recorded(what: str, uri: str | None) -> Record:
    """The run with this id, or in this file.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    if os.path.isfile(what):  # noqa: PTH113 (Path.is_file raises for what is too long for a name)
        return read_bundle(Path(what), uri)
    if set(what.lower()) - set("0123456789abcdef"):
        names = published_expectations()
        raise ConfigError(
            f"{what!r} is no file, no id of a run, and no published config{did_you_mean(what, names)}."
            f" Published configs: {', '.join(names)}"
        )
    return find_record(what, uri)


def again(recorded: Record) -> int:
    """Runs it again; prints on stderr what is no longer as recorded, and on stdout the comparison."""
    print(f"Run {recorded.run.run_id} ({recorded.run.name}) again, from its own config.")
    for kind, found in (("Differs from then", recorded.changes()), ("Changed record", recorded.contradictions())):
        for what in found:
            print(f"{kind}: {printable(what)}", file=sys.stderr)
    new_id = rerun_record(recorded)
    if not new_id:
        return 0
    verdict = judge_rerun(recorded, new_id)
    show(verdict)
    return 0 if verdict.reproduced else 1


def show(verdict: RerunVerdict) -> None:
    """Prints the metrics then and now, the tolerance and the verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table("metric", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("then", "now", "largest difference"):
        table.add_column(heading, justify="right")
    for row in verdict.rows:
        then, now = ("-" if value is None else f"{value:.6g}" for value in (row.then, row.now))
        table.add_row(row.metric, then, now, difference(row), style=None if row.equal else "red")
    console.print(table)
    for change in verdict.machine_changes:
        print(f"Differs from then: {printable(change)}")
    if verdict.exact:
        print("Asked for: equal to the last bit, as processor, threads, versions and code are those of then.")
    else:
        print(f"Asked for: within {TOLERANCE_TEXT}; machine, threads, versions or code are not those of then.")
    for contradiction in verdict.contradictions:
        print(f"The record was changed after the run: {printable(contradiction)}.")
    differing = [row.metric for row in verdict.rows if not row.equal]
    differing += ["the model"] if verdict.same_weights is False else []
    if differing:
        print(f"Not the same: {', '.join(differing)}.")
    print("Reproduced." if verdict.reproduced else "Not reproduced.")


def difference(row: MetricRow) -> str:
    if row.difference is None:
        return "not the same epochs"
    return f"{row.difference:.3g} in epoch {row.epoch}" if row.difference else "0"


# --- published configs ----------------------------------------------------------------------------------------------


def over_seeds(config: PublishedConfig) -> int:
    """Runs the seeds that are not done; prints the published number, ours then and ours now."""
    outcome = judge_published(config, config.run())
    assert outcome is not None  # all seeds are finished
    show_outcome(config, outcome)
    if outcome.reproduced is None:
        return 2
    return 0 if outcome.reproduced else 1


def show_outcome(config: PublishedConfig, outcome: PublishedOutcome) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    expected, metric = config.expected, config.expected.metric
    table = Table(metric, box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("mean", "standard deviation", "seeds"):
        table.add_column(heading, justify="right")

    def row(name: str, mean: float | None, deviation: float | None, seeds: int, form: str = ".3f") -> None:
        spread = show_metric(metric, deviation)
        table.add_row(name, show_metric(metric, mean, form), spread, str(seeds or "-"))

    if config.quick:
        row("ours then, shrunk", config.mean, None, config.seeds_then if config.mean else 0)
    else:
        row("published", expected.published, None, 0, AS_PUBLISHED)
        row("ours then", expected.mean, expected.standard_deviation, config.seeds_then if expected.mean else 0)
    row("ours now", outcome.mean, outcome.standard_deviation, len(outcome.values))
    Console(highlight=False, markup=False, soft_wrap=True).print(table)
    for change in version_changes(expected):
        print(f"Differs from then: {change}")
    if outcome.reached is not None:
        print(f"The published number is {'' if outcome.reached else 'not '}reached.")
    if config.mean is None or config.tolerance is None:
        print(f"{config.another or 'It was not measured before'}, so there is nothing to compare with.")
        return
    gap, allowed = (show_metric(metric, value) for value in (abs(outcome.mean - config.mean), config.tolerance))
    print(f"Ours now differs from ours then by {gap}; allowed is {allowed}.")
    print("Reproduced." if outcome.reproduced else "Not reproduced.")


def every(overrides: list[str], quick: bool, uri: str | None, document: Path | None) -> int:
    """Runs each published config in a process of its own, as TensorFlow takes its threads once per process."""
    stated = published_expectations()
    if document:
        check_document(document)
        keys = {field.name for field in dataclasses.fields(Expectation)}
        named = [name for name, said in stated.items() if overrides or said.keys() != keys]  # half edited: told now
        another = next((said for name in named if (said := find_published(name, overrides).another)), None)
        if another:
            raise ConfigError(
                f"{another}, which has no place in the table. Leave out --table, or: {' '.join(overrides)}"
            )
    result = "quick" if quick else "mean"
    unmeasured = [name for name, said in stated.items() if result in said and said[result] is None]
    verdicts = dict.fromkeys(unmeasured, "nothing to compare with")
    options = [*(["--quick"] if quick else []), *(["--uri", uri] if uri else [])]
    codes = set()
    for name in [name for name in stated if name not in verdicts]:
        print(f"\n{name}", flush=True)
        with subprocess.Popen([sys.executable, __file__, name, *overrides, *options]) as process:
            try:
                code = process.wait()
            except (KeyboardInterrupt, Terminated) as end:
                process.terminate()
                process.wait()  # and has said why
                return Terminated.exit_code if isinstance(end, Terminated) else 130
        if code in (130, Terminated.exit_code):
            return code
        codes.add(code)
        verdicts[name] = {0: "reproduced", 1: "not reproduced"}.get(code, "could not be tried")
    if document:
        write_table(document, [find_published(name, overrides, uri) for name in stated])
    print()
    for name in stated:
        print(f"{name}: {verdicts[name]}")
    return 1 if 1 in codes else 2 if codes != {0} else 0


if __name__ == "__main__":
    sys.exit(main())
