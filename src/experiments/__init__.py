"""Configuration-driven experiments for Keras and TensorFlow: Hydra YAML in, a tracked MLflow run out.

Your own code imports its decorators from here (`python run.py --code FOLDER`); see docs/extending.md.
"""

from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "conf").is_dir()  # from a wheel, in which setup.py puts it; else this is a clone
RESOURCES = _PACKAGE if INSTALLED else _PACKAGE.parents[1]  # the folder with conf/, which is only read
PROJECT = RESOURCES  # the folder with mlruns/, outputs/ and data/
if INSTALLED:
    with suppress(FileNotFoundError):  # the working folder was deleted, which every command reports
        PROJECT = Path.cwd()

from experiments.config.registry import augmentation, dataset, figure, loss, metric, model, optimizer, random  # noqa: E402

__all__ = ["augmentation", "dataset", "figure", "loss", "metric", "model", "optimizer", "random"]
