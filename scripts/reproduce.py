"""Repeat recorded runs and published configs: see `python scripts/reproduce.py --help`."""

import sys

from experiments.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
