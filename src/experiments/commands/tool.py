"""The installed command `experiments`: a table of its subcommands, whose modules are imported when they are called."""

import importlib
import os
import sys
from functools import partial
from typing import NamedTuple

from experiments import PROJECT
from experiments.errors import UserError, did_you_mean, run_command, show_given
from experiments.formatting import TOOL, TOOL_VARIABLE


class Subcommand(NamedTuple):
    """What a subcommand does, the module whose `main` does it, and an option that stands before its arguments."""

    meaning: str
    module: str
    option: str = ""


SUBCOMMANDS = {
    "run": Subcommand("train one experiment, and record it; or resume a run", "experiments.cli"),
    "sweep": Subcommand("train every combination of values, or search among them", "experiments.cli", "-m"),
    "compare": Subcommand("compare runs: what differs, and how good they are", "experiments.commands.compare"),
    "reproduce": Subcommand("repeat a run and compare every metric", "experiments.commands.reproduce"),
    "evaluate": Subcommand("evaluate a run's model again, also on other data", "experiments.commands.evaluate"),
    "predict": Subcommand("classify your own pictures with a run's model", "experiments.commands.predict"),
    "export": Subcommand("write a run's model for use elsewhere", "experiments.commands.export"),
    "promote": Subcommand("register a run's model if it beats the champion", "experiments.commands.promote"),
    "ui": Subcommand("show the runs in MLflow's UI", "experiments.commands.ui"),
    "delete": Subcommand("delete runs for good, after asking", "experiments.commands.delete"),
    "new": Subcommand("write a small project of your own, to begin with", "experiments.commands.new"),
}


def main() -> None:
    """Run the subcommand in sys.argv."""
    os.environ[TOOL_VARIABLE] = "1"
    name, *arguments = sys.argv[1:] or [""]
    subcommand = SUBCOMMANDS.get(name)
    if subcommand is None:
        sys.exit(run_command(partial(_answer, name)))
    sys.argv = [f"{TOOL} {name}", *filter(None, [subcommand.option]), *arguments]
    sys.exit(importlib.import_module(subcommand.module).main())


def _answer(word: str) -> None:
    """Print the help, or raise a UserError for a word that is not a subcommand."""
    if word not in ("--help", "-h"):
        said = (
            f"{show_given(word)} is not a command{did_you_mean(word, SUBCOMMANDS)}" if word else "No command is given"
        )
        raise UserError(f"{said}. Commands: {', '.join(SUBCOMMANDS)}. For help: {TOOL} --help")
    print(f"usage: {TOOL} COMMAND [...]\n\nOne-line experiments for Keras and TensorFlow, tracked and repeatable.\n")
    print(*(f"  {name:9}  {subcommand.meaning}" for name, subcommand in SUBCOMMANDS.items()), sep="\n")
    print(f"\n{TOOL} COMMAND --help explains a command. Folders: mlruns, outputs and data in {PROJECT}")
