"""Classify your own pictures with the model of a run: see `python scripts/predict.py --help`."""

import sys

from experiments.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
