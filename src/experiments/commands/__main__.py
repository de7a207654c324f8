"""The command `experiments` as `python -m experiments.commands`, which needs no script on the PATH."""

from experiments.commands.tool import main

if __name__ == "__main__":
    main()
