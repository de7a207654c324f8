"""Configuration-driven experiments for Keras and TensorFlow: Hydra YAML in, a tracked MLflow run out."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # the folder with run.py
