"""Evaluate the model of a run again: see `python scripts/evaluate.py --help`."""

import sys

from experiments.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
