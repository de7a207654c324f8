"""Show runs in MLflow's UI: see `python scripts/ui.py --help`."""

import sys

from experiments.commands.ui import main

if __name__ == "__main__":
    sys.exit(main())
