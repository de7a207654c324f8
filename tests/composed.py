"""Configs composed for tests, and the messages of those that are refused."""

from pathlib import Path

import pytest

from experiments.config.composition import compose_job
from experiments.config.schema import Config
from experiments.errors import ConfigError


def job(*overrides: str, config_dir: Path | None = None) -> Config:
    return compose_job(overrides, str(config_dir) if config_dir else None)


def refusal(*overrides: str, config_dir: Path | None = None) -> str:
    """Return the message of the ConfigError that composing raises."""
    with pytest.raises(ConfigError) as caught:
        job(*overrides, config_dir=config_dir)
    return str(caught.value)
