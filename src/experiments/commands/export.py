"""Write the model of a run to a file for use elsewhere, and check that it gives the same outputs there.

python scripts/export.py RUN_ID --format keras             as Keras keeps it: model-1a2b3c4d.keras
python scripts/export.py RUN_ID --format tf_saved_model    a folder, for TensorFlow without Keras and for its servers
python scripts/export.py RUN_ID --format onnx              for ONNX Runtime; needs: pip install -e '.[onnx]'
python scripts/export.py RUN_ID --format onnx --to digits.onnx    under this name, or into this folder

The exported model takes raw pixels as the run's did, as float32. NAME.json beside it has the run's id, the classes in
the order of the outputs, and the shape and range of the input. Nothing is overwritten.

The model is loaded again as its users will load it, and applied to the first 1,000 test examples of the run. If a class
is not the same, or an output differs by more than 0.0001 (relatively, if it is above 1), what was written is removed.

Exit code: 0 if it was exported, 1 if it was removed, 2 if something was wrong with the command, the store or the data.
"""

import argparse
from pathlib import Path
from typing import get_args

from experiments.comparison.export import ExportFormat, export_model
from experiments.config.own_code import add_code_option, load_own_code
from experiments.errors import CommandParser, run_command
from experiments.formatting import printable
from experiments.runtime import collect_garbage_rarely


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_id", metavar="RUN_ID", help="run whose model to export, by id or its first characters")
    add("--format", required=True, choices=get_args(ExportFormat), help="what to write")
    add("--to", metavar="FILE_OR_FOLDER", type=Path, help="where; default: the working folder, as model-RUN_ID")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add_code_option(parser)
    return run_command(lambda: export(parser.parse_args()))


def export(options: argparse.Namespace) -> None:
    """Export the model, and print where it is, how exact it is and what it takes."""
    load_own_code(options.code)
    exported = export_model(options.run_id, options.format, options.to, options.uri)
    taken, given = exported.origin["input"], exported.origin["output"]
    limits = f" from {taken['range'][0]} to {taken['range'][1]}" if taken["range"] else ""
    classes = f": {printable(', '.join(given['classes']))}" if given["classes"] else ""
    print(f"Exported run {exported.run.run_id} ({printable(exported.run.name)}) to {exported.path}.")
    same = f"{exported.examples:,} test examples: the outputs differ by at most {exported.difference:.2g}"
    print(f"Checked on {same}{', the classes not at all' if classes else ''}.")
    size = " x ".join(map(str, taken["shape"][1:]))
    print(f"It takes {size} {taken['dtype']} values{limits}, and gives {printable(given['values'])}{classes}.")
    print(f"This is also in {exported.origin_file}.")
