"""Compare runs: see `python scripts/compare.py --help`."""

import sys

from experiments.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
