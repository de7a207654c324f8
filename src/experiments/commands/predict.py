"""Classify your own pictures with the model of a run.

python scripts/predict.py RUN_ID seven.png           the probability of each class
python scripts/predict.py RUN_ID *.jpg --save .      also save what the network saw, as NAME.seen.png

A picture is a PNG, JPEG, WebP, BMP or GIF (its first frame) of any size and colour. It is brought to the size and
colour of the run's training images. With a run on digits or letters (mnist, emnist, kmnist) a picture shows one of
them, dark on light or light on dark: it is found by its contrast, then scaled and centred like those of MNIST. Of
several, each is classified. What speaks against one whole digit, such as a frame or ink that touches the border, is
reported. A picture that cannot be read does not stop the others, but the exit code is then 1. --save never overwrites
another picture, but writes NAME-2.seen.png, and so on.
"""

import argparse
import sys
from pathlib import Path

from experiments.comparison.predict import Prediction, predict_pictures
from experiments.config.own_code import add_code_option, load_own_code
from experiments.data.picture_files import PictureError
from experiments.errors import CommandParser, run_command
from experiments.formatting import plain_console, printable
from experiments.runtime import collect_garbage_rarely


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_id", metavar="RUN_ID", help="run on images, by id or its first characters")
    add("images", metavar="IMAGE", nargs="+", type=Path, help="picture to classify")
    add("--save", metavar="FOLDER", type=Path, help="save what the network saw here, as NAME.seen.png")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    add_code_option(parser)
    return run_command(lambda: classify(parser.parse_args()))


def classify(options: argparse.Namespace) -> int:
    load_own_code(options.code)
    if options.save and not options.save.is_dir():
        raise PictureError(f"--save={options.save} is not a folder. Create it first, or name another; . is this one.")
    predicted = predict_pictures(options.run_id, options.images, options.uri)
    print_predictions(predicted.predictions)
    sys.stdout.flush()
    for line in [*predicted.remarks, *predicted.refused]:
        print(line, file=sys.stderr)
    for prediction in predicted.predictions if options.save else []:
        print(f"What the network saw of {prediction.place}: {prediction.save(options.save)}", file=sys.stderr)
    if not options.save:
        print("To see what the network saw: --save FOLDER", file=sys.stderr)
    return 1 if predicted.refused else 0


def print_predictions(predictions: list[Prediction]) -> None:
    """Print a row for each picture, or digit in it: the file, its class, and the output for each class."""
    from rich.table import Table

    probabilities = all(prediction.are_probabilities for prediction in predictions)
    table = Table("picture", "class", box=None, pad_edge=False)
    for name in predictions[0].class_names:
        table.add_column(printable(name), justify="right")
    for prediction in predictions:
        numbers = [f"{value:.1%}" if probabilities else f"{value:.3g}" for value in map(float, prediction.outputs)]
        table.add_row(printable(prediction.place), printable(prediction.name), *numbers)
    # Wide enough for any name, so that no two are cut to the same.
    plain_console(width=10_000).print(table)
    if not probabilities:
        print("The outputs of this network are not probabilities; the class is that of the largest.", file=sys.stderr)
