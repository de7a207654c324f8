"""Evaluate the model of a run on its official test set, or on other data, and add the result to the run.

python scripts/evaluate.py RUN_ID                       its own test set; the first characters of an id suffice
python scripts/evaluate.py RUN_ID data=fashion_mnist    other data that fits the model
python scripts/evaluate.py RUN_ID data.path=FOLDER      other files; add data.checksums=null for your own
"""

import re
import sys

from experiments.comparison.evaluate import EvaluatedRun, evaluate_run
from experiments.config.metrics import find_metric
from experiments.config.own_code import add_code_option, load_own_code
from experiments.errors import CommandParser, run_command
from experiments.formatting import plain_console, printable
from experiments.reports.next_commands import next_commands
from experiments.reports.summary import metrics_table
from experiments.runtime import collect_garbage_rarely


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_id", metavar="RUN_ID", help="run to evaluate, by id or its first characters")
    add("overrides", metavar="data=NAME, data.KEY=VALUE", nargs="*", help="overrides of the run's data config")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add_code_option(parser)

    def command() -> None:
        options = parser.parse_intermixed_args()
        load_own_code(options.code)
        print_evaluation(evaluate_run(options.run_id, options.overrides, options.uri))

    return run_command(command)


def print_evaluation(evaluated: EvaluatedRun) -> None:
    """Print the tables on stdout, and what to do next on stderr."""
    from rich.table import Table

    console = plain_console()
    run, name = evaluated.run, evaluated.config.data.name
    shown = {}
    for key, value in evaluated.metrics.items():
        metric = find_metric(re.sub(rf"^evaluation_{re.escape(name)}(_[0-9a-f]{{8}})?_", "test_", key))
        shown[key] = (metric.shown if metric else "{:.4f}").format(value)
    console.print(metrics_table(shown))
    if evaluated.per_class:
        console.print()
        classes = Table(*evaluated.per_class, box=None, pad_edge=False)
        for row in zip(*evaluated.per_class.values(), strict=True):
            classes.add_row(*(printable(str(cell)) for cell in row))
        console.print(classes)
    about = f"Evaluated on {name} from {evaluated.source}; added to run"
    print(f"{about} {printable(run.name)} ({run.run_id}).", file=sys.stderr)
    commands = next_commands(evaluated.config, [], run.run_id)
    print("Next:", *(f"  {commands[word]}  # {word}" for word in ("compare", "browse")), sep="\n", file=sys.stderr)
