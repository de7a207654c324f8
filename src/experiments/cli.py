"""The command line of run.py: check everything first, then let Hydra run the job or the sweep."""

import signal
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import compose_job
from experiments.config.hydra_internals import hydra_argument_parser
from experiments.config.schema import Config
from experiments.config.sweep_composition import ComposedSweep, compose_sweep
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, raise_terminated, run_command
from experiments.runtime import collect_garbage_rarely

POOL_TARGET = "hydra_plugins.pool_launcher.PoolLauncher"
ANSWERED_BY_HYDRA = ("help", "hydra_help", "info")  # --version has ended by then
# Hydra's completion is for the command `python`, and runs whatever script stands there to ask it: let it ask ours only.
COMPLETE_ONLY_OURS = r"""
hydra_bash_completion_of_ours()
{
    grep -qs "experiments\.cli" -- "${COMP_WORDS[1]}" && hydra_bash_completion
}
complete -o nospace -o default -F hydra_bash_completion_of_ours python"""


def main() -> None:
    """Run the command in sys.argv; the exit codes are those of --help."""
    collect_garbage_rarely()
    signal.signal(signal.SIGTERM, raise_terminated)
    sys.exit(run_command(_command))


def _command() -> None:
    arguments = hydra_argument_parser().parse_args()
    sweep = None if arguments.shell_completion else _check_command(arguments)
    if sweep is None:
        _hydra_job()
        if arguments.shell_completion and "install=bash" in arguments.overrides:
            print(COMPLETE_ONLY_OURS)
    else:
        _run_sweep(sweep)


def _check_command(arguments: Any) -> ComposedSweep | None:
    """Find out what the command stands for, and whether it can be done: a sweep, or what Hydra's main function does."""
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, flag, None):
            option = f"--{flag.replace('_', '-')}"
            raise ConfigError(
                f"{option} is not supported. Use experiment=NAME, or --config-dir FOLDER for your own files."
            )
    multirun = arguments.multirun or any(o.strip().lower() == "hydra.mode=multirun" for o in arguments.overrides)
    if multirun:
        sweep = compose_sweep(arguments.overrides, arguments.config_dir)
        if sweep.is_search:
            from experiments.sweeps.search import check_search

            sweep = check_search(sweep)
        jobs = [job.config for job in sweep.jobs]
    else:
        jobs = [compose_job(arguments.overrides, arguments.config_dir)]
    if arguments.cfg or any(getattr(arguments, question) for question in ANSWERED_BY_HYDRA):
        return None
    from experiments.data.datasets import find_dataset
    from experiments.sweeps.engines.pool import check_pool_settings
    from experiments.tracking.addresses import check_tracking_uri, resolve_tracking_uri
    from experiments.tracking.initial_weights import check_initial_weights
    from experiments.training.checkpoints import check_checkpoint_folder

    check_checkpoint_folder()
    for config in jobs:
        check_tracking_uri(resolve_tracking_uri(config.tracking.uri))
        find_dataset(config.data)
        check_initial_weights(config)
    if not multirun:
        return None
    if any(config.resume for config in jobs):
        raise ConfigError(
            "resume=RUN_ID goes on with one run, and -m is for several. Leave out -m; or repeat the command of the"
            " sweep, which goes on with all of its runs."
        )
    if any(config.distribution.strategy == "multi_worker" for config in jobs):
        raise ConfigError("distribution=multi_worker cannot be swept with -m. Start its runs one by one.")
    if sweep.launcher["_target_"] == POOL_TARGET:
        check_pool_settings(sweep.launcher["workers"], sweep.launcher["timeout_minutes"])
    else:
        _check_together(jobs)
    return sweep


def _check_together(jobs: list[Config]) -> None:
    """What the jobs of a sweep have to share that run one after the other in a process."""
    shared = {(config.training.threads, config.distribution.strategy, config.distribution.devices) for config in jobs}
    if len(shared) > 1:
        raise ConfigError(
            "The jobs of this sweep differ in training.threads (which `auto` chooses by the network), or in"
            " distribution, and TensorFlow takes both once per process. Give all the same, such as training.threads=1,"
            " or use hydra/launcher=pool."
        )
    written_out = [config for config in jobs if config.model.name == "layers"]
    if written_out:  # only Keras can tell whether the layers fit; a single run finds out before it is made
        from experiments.training.devices import start_strategy
        from experiments.training.networks import build_network

        start_strategy(written_out[0].distribution, int(written_out[0].training.threads))
        for config in written_out:
            build_network(config)


def _run_sweep(composed: ComposedSweep) -> None:
    from experiments.sweeps.plan import plan_sweep
    from experiments.sweeps.sweep import open_sweep, show_finished_sweep

    plan = plan_sweep(composed)
    plan.show()
    if plan.base.sweep.dry_run:
        return
    if plan.is_finished:
        show_finished_sweep(plan, sys.argv[1:])
        return
    with open_sweep(plan, sys.argv[1:]):
        _hydra_job()


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def _hydra_job(composed: DictConfig) -> None:
    from experiments.experiment import run_experiment
    from experiments.sweeps.jobs import run_task

    context = HydraConfig.get()
    if context.mode == RunMode.MULTIRUN:  # what Hydra composed may be of files that were edited since
        return run_task(context.job.num)
    config = validate_config(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]

    def train() -> None:
        run_experiment(config, list(context.overrides.task))

    if code := run_command(train):  # an exception would be shown by Hydra, with its traceback
        sys.exit(code)
