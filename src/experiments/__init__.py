"""Configuration-driven experiments for Keras and TensorFlow: Hydra YAML in, a tracked MLflow run out.

Your own code imports its decorators from here (`python run.py --code FOLDER`); see docs/extending.md.
"""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # the folder with run.py

from experiments.config.registry import augmentation, dataset, figure, loss, metric, model, optimizer, random  # noqa: E402

__all__ = ["augmentation", "dataset", "figure", "loss", "metric", "model", "optimizer", "random"]
