"""Register the model of a run, or of a sweep's best run, in MLflow's registry, if it is better than the champion there.

python scripts/promote.py SWEEP_ID --name digits --alias champion             the best run of a sweep
python scripts/promote.py RUN_ID --name digits --alias champion               this run
python scripts/promote.py RUN_ID --name digits --alias champion --anyway      whatever the champion's result is

The first model under an alias is always registered. Later ones have to be better than the champion, the run that the
alias points to, on the same data and beyond noise: if both are among several seeds of their sweeps, by Welch's t-test
of the objective over the seeds; else by the test examples that only one of the two gets right (McNemar's test), or by a
paired t-test of the errors of predicted numbers. The printed line says which. The promoted model is models:/NAME@ALIAS
to MLflow, and the tags of its version name the run, the metric and its value.

Exit code: 0 if the run is the champion now, 1 if it was refused, 2 if the command or the store is wrong.
"""

import argparse
import shlex
import sys

from experiments.config.own_code import add_code_option, load_own_code
from experiments.errors import CommandParser, run_command
from experiments.formatting import printable
from experiments.runtime import collect_garbage_rarely
from experiments.sweeps.promotion import promote_model
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_id", metavar="SWEEP_ID|RUN_ID", help="sweep or run, by id or its first characters")
    add("--name", required=True, help="name of the registered model; it is made if there is none")
    add("--alias", required=True, help="alias that points to the best version, such as champion")
    add("--anyway", action="store_true", help="also if it is not better, or cannot be compared")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add_code_option(parser)
    return run_command(lambda: promote(parser.parse_args()))


def promote(options: argparse.Namespace) -> int:
    """Promote the run and say why, or say why not; return the exit code."""
    load_own_code(options.code)
    promoted = promote_model(options.run_id, options.name, options.alias, options.anyway, options.uri)
    run = f"Run {promoted.run.run_id} ({printable(promoted.run.name)})"
    print(printable(promoted.decision) + ".")
    if promoted.version is None:
        print(f"{run} was not promoted. To promote it all the same, add --anyway.", file=sys.stderr)
        return 1
    if promoted.is_new:
        print(f"{run} is {printable(promoted.version.title)} now.")
    uri = shlex.quote(hide_credentials(resolve_tracking_uri(options.uri)))
    model = shlex.quote(f"models:/{options.name}@{options.alias}")
    serve = f"MLFLOW_TRACKING_URI={uri} mlflow models serve -m {model} --env-manager local"
    print("Next:", f"  {serve}  # serve it", sep="\n", file=sys.stderr)
    return 0
