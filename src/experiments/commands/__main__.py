"""Let the option -m of Python run the command `experiments`, where no script of that name is on the PATH."""

from experiments.commands.tool import main

if __name__ == "__main__":
    main()
