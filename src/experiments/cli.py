"""The command line of run.py: check everything first, then let Hydra run the job or the sweep."""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import runtime
from experiments.compose import CONF, compose_jobs
from experiments.config import Config, validate
from experiments.errors import ConfigError, Terminated, TrainingError, UserError

ANSWERED_BY_HYDRA = ("help", "hydra_help", "info")  # --version has ended by then


def main() -> None:
    """Run the command in sys.argv; the exit codes are those of the README."""
    runtime.collect_garbage_rarely()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arguments = get_args_parser().parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if not arguments.shell_completion:
            _check(arguments)
        _job()
    except UserError as error:
        _fail(error, error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted.", 130)
    except Terminated:
        _fail("Terminated.", Terminated.exit_code)
    except BrokenPipeError:  # the reader of --help has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _check(arguments: Any) -> None:
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, flag, None):
            option = f"--{flag.replace('_', '-')}"
            raise ConfigError(
                f"{option} is not supported. Use experiment=NAME, or --config-dir FOLDER for your own files."
            )
    multirun = arguments.multirun or any(o.strip().lower() == "hydra.mode=multirun" for o in arguments.overrides)
    jobs = compose_jobs(arguments.overrides, multirun, arguments.config_dir)
    if arguments.cfg or any(getattr(arguments, question) for question in ANSWERED_BY_HYDRA):
        return
    from experiments import checkpoints, data, tracking

    checkpoints.check_folder()
    for config in jobs:
        tracking.check_uri(tracking.resolve_uri(config.tracking.uri))
        data.find(config.data)
    if multirun:
        _check_together(jobs)


def _check_together(jobs: list[Config]) -> None:
    """What the jobs of a sweep that run one after the other in this process have to share."""
    shared = {(config.training.threads, config.distribution.strategy, config.distribution.devices) for config in jobs}
    if len(shared) > 1:
        raise ConfigError(
            "The jobs of this sweep differ in training.threads (which `auto` chooses by the network), or in"
            " distribution, and TensorFlow takes both once per process. Give all the same, such as training.threads=1."
        )
    if jobs[0].distribution.strategy == "multi_worker":
        raise ConfigError("distribution=multi_worker cannot be swept with -m. Start its runs one by one.")
    written_out = [config for config in jobs if config.model.name == "layers"]
    if written_out:  # only Keras can tell whether the layers fit; a single run finds out before it is made
        from experiments import distribution, models

        distribution.start(written_out[0].distribution, int(written_out[0].training.threads))
        for config in written_out:
            models.build(config)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(composed: DictConfig) -> None:
    from experiments import experiment

    config = validate(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    context = HydraConfig.get()
    try:
        experiment.run(config, list(context.overrides.task))
    except (UserError, TrainingError) as error:
        if context.mode == RunMode.MULTIRUN:
            print(f"Error: {error}", file=sys.stderr)
            raise
        _fail(error, error.exit_code)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _fail(message: object, exit_code: int) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    sys.exit(exit_code)
