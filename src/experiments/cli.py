"""The command line of run.py: compose and check everything once, then run what was checked."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from experiments.commands.tool import SUBCOMMANDS
from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import compose_job, offer_own_choices
from experiments.config.overrides import is_hydra_key, override_key, parse_command_line
from experiments.config.own_code import load_own_code, loaded_own_code
from experiments.config.schema import Config
from experiments.config.sweep_composition import PoolSettings, compose_sweep, is_sweep_command
from experiments.errors import ConfigError, handle_ending_signals, run_command, show_given
from experiments.formatting import called_as_tool
from experiments.runtime import check_xla_flags, collect_garbage_rarely

# Hydra completes the command `python` by running whatever script follows it: restrict that to our own.
COMPLETE_ONLY_OURS = r"""
hydra_bash_completion_of_ours()
{
    grep -qs "experiments\.cli" -- "${COMP_WORDS[1]}" && hydra_bash_completion
}
complete -o nospace -o default -F hydra_bash_completion_of_ours python"""
# The same for the installed command, whose first word Hydra does not know.
COMPLETE_TOOL = r"""
experiments_completion()
{
    local choices subcommand=${COMP_WORDS[1]}
    if [ "$COMP_CWORD" = 1 ]; then
        choices="SUBCOMMANDS"
        compopt +o nospace
    elif [ "$subcommand" = run ] || [ "$subcommand" = sweep ]; then
        choices=$(COMP_LINE="experiments ${COMP_LINE#*"$subcommand" }" experiments run -sc query=bash)
    fi
    COMPREPLY=($(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F experiments_completion experiments"""


def main() -> None:
    """Run the command in sys.argv; `--help` lists the exit codes."""
    collect_garbage_rarely()
    handle_ending_signals()
    sys.exit(run_command(_run_arguments))


def _run_arguments() -> None:
    arguments = parse_command_line()
    load_own_code(arguments.code)
    if arguments.shell_completion:
        if called_as_tool() and "install=bash" in arguments.overrides:
            return print(COMPLETE_TOOL.replace("SUBCOMMANDS", " ".join(SUBCOMMANDS)))
        if not _load_completed_code():
            return
        _ask_hydra(arguments, arguments.overrides)
        if "install=bash" in arguments.overrides:
            print(COMPLETE_ONLY_OURS)
        return
    for option in ("config-name", "config-path", "experimental-rerun"):
        if getattr(arguments, option.replace("-", "_")):
            advice = "Use experiment=NAME, or --config-dir FOLDER for your own files."
            raise ConfigError(f"--{option} is not supported. {advice}")
    (_sweep if arguments.multirun or is_sweep_command(arguments.overrides) else _run)(arguments)


def _load_completed_code() -> bool:
    """Load the code that the line to be completed names, and take it out of the line, as Hydra does not know --code.

    Return False if it is the name of the folder that is to be completed, which the shell does.
    """
    words = os.environ.get("COMP_LINE", "").replace(" --code=", " --code ").split(" ")
    if words[-2:-1] == ["--code"]:
        return False
    if "--code" in words:
        place = words.index("--code")
        load_own_code(words[place + 1])
        offer_own_choices()
        line = " ".join([*words[:place], *words[place + 2 :]])
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    return True


def _run(arguments: Namespace) -> None:
    config = compose_job(arguments.overrides, arguments.config_dir)
    if arguments.cfg or arguments.help or arguments.hydra_help or arguments.info:  # --version has already exited
        return _ask_hydra(arguments, arguments.overrides)
    overrides = [override for override in arguments.overrides if not is_hydra_key(override_key(override))]
    if unused := next((override for override in overrides if override_key(override).startswith("sweep.")), None):
        raise ConfigError(f"{show_given(unused)} has no effect on a single run. For a sweep add -m, or leave it out.")
    _check_surroundings([config])
    from experiments.experiment import run_experiment
    from experiments.reproduction.resume import find_continued_run, find_resumed_run

    if config.resume:
        resumed, recorded_overrides = find_resumed_run(config, overrides)
        run_experiment(resumed, recorded_overrides, run_id=resumed.resume)
    elif config.model.continue_:
        run_experiment(find_continued_run(config, overrides), overrides)
    else:
        run_experiment(config, overrides)


def _sweep(arguments: Namespace) -> None:
    if arguments.cfg or arguments.info:
        raise ConfigError("--cfg and --info are about one run. Leave out -m.")
    sweep = compose_sweep(arguments.overrides, arguments.config_dir)
    if sweep.is_search:
        from experiments.sweeps.search import check_search

        sweep = check_search(sweep)
    if arguments.help or arguments.hydra_help:
        return _ask_hydra(arguments, [])  # which would refuse several values
    jobs = [job.config for job in sweep.jobs]
    _check_surroundings(jobs)
    if any(config.resume for config in jobs):
        raise ConfigError(
            "resume=RUN_ID resumes one run, and -m is for several. Leave out -m, or repeat the command of the sweep,"
            " which resumes all of its runs."
        )
    if any(config.model.continue_ for config in jobs):
        raise ConfigError("model.continue=RUN_ID trains one run further, and -m is for several. Leave out -m.")
    if any(config.distribution.strategy == "multi_worker" for config in jobs):
        raise ConfigError("distribution=multi_worker cannot be swept with -m. Start its runs one by one.")
    if not isinstance(sweep.launcher, PoolSettings):
        from experiments.sweeps.engines.in_process import check_shared_process

        check_shared_process(jobs)
    from experiments.sweeps.sweep import run_sweep

    run_sweep(sweep, sys.argv[1:])


def _ask_hydra(arguments: Namespace, overrides: Sequence[str]) -> None:
    """Have Hydra answer the question of the command line about these of its overrides, which Hydra takes only last."""
    words = [word for word in sys.argv if word not in arguments.overrides and not word.startswith("--code=")]
    if "--code" in words:
        del words[words.index("--code") : words.index("--code") + 2]
    own = loaded_own_code()
    further = own.config_folder if own else None
    found = [f"hydra.searchpath=[file://{further}]"] if further else []
    if arguments.shell_completion:
        found = ["--config-dir", str(further)] if further else []
    sys.argv = [*words, *overrides, *found]
    _answer_question()


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def _answer_question(_: DictConfig) -> None:
    """Have Hydra answer --help, --hydra-help, --cfg, --info or --shell-completion; it runs no job."""


def _check_surroundings(jobs: Sequence[Config]) -> None:
    """Check what the jobs need besides their configs: folders, stores, data, initial weights and flags."""
    from experiments.data.datasets import find_dataset
    from experiments.tracking.addresses import check_tracking_uri, resolve_tracking_uri
    from experiments.tracking.artifacts import check_initial_weights
    from experiments.training.checkpoints import check_checkpoint_folder

    check_xla_flags()
    check_checkpoint_folder()
    for config in jobs:
        check_tracking_uri(resolve_tracking_uri(config.tracking.uri))
        find_dataset(config.data)
        check_initial_weights(config)
