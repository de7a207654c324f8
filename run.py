"""Train one experiment, or sweep many: see `python run.py --help`."""

from experiments.cli import main

if __name__ == "__main__":
    main()
