"""Promote the model of a run: see `python scripts/promote.py --help`."""

import sys

from experiments.commands.promote import main

if __name__ == "__main__":
    sys.exit(main())
