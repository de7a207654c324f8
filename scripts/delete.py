"""Delete runs for good: see `python scripts/delete.py --help`."""

import sys

from experiments.commands.delete import main

if __name__ == "__main__":
    sys.exit(main())
