"""Export the model of a run: see `python scripts/export.py --help`."""

import sys

from experiments.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
