"""YAML that describes too much is refused before it is built, wherever it is read."""

import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from experiments.config.composition import compose_job
from experiments.config.yaml_files import read_yaml
from experiments.errors import ConfigError, Terminated, raise_terminated

NAMES = "abcdefgh"


def doubling(first: str, line: str, times: int) -> str:
    """Return YAML in which each key stands for the one before so many times."""
    lines = [f"{NAMES[0]}: &{NAMES[0]} {first}"]
    for earlier, name in pairwise(NAMES):
        lines.append(f"{name}: &{name} {line.replace('ALIASES', ', '.join([f'*{earlier}'] * times))}")
    return "\n".join(lines)


BOMBS = {
    "lists": doubling("[1]", "[ALIASES]", 9),
    "merged mappings": doubling("{k: 1}", "{<<: [ALIASES]}", 9),
    "mappings": doubling("{k: 1}", "{x: *a, y: [ALIASES]}", 9),
    "itself": "a: &a [*a]",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_aliases_that_stand_for_too_much_are_refused(bomb: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match=r"^the text describes more than 10,000 values, where each alias"):
        read_yaml(BOMBS[bomb], "the text")
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{BOMBS[bomb]}\n")
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        compose_job(["experiment=mine"], config_dir=str(tmp_path))
    assert str(caught.value).startswith(f"{file} describes more than 10,000 values, where each alias (*name) counts")
    assert time.monotonic() - start < 5


def test_a_signal_ends_a_slow_composition(tmp_path: Path) -> None:
    """OmegaConf fails to clean up after an exception in the middle of a copy, and raises another."""
    (tmp_path / "experiment").mkdir()
    row = f"[{', '.join('1' * 95)}]"
    slow = f"model:\n  layers: [&row {row}, {', '.join(['*row'] * 94)}]"
    (tmp_path / "experiment" / "slow.yaml").write_text(f"# @package _global_\n{slow}\n")
    before = signal.signal(signal.SIGALRM, raise_terminated)
    try:
        for delay in (0.25, 0.4, 0.55, 0.7):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Terminated):
                compose_job(["experiment=slow"], config_dir=str(tmp_path))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_of_many_values_is_refused_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=r"^it describes more than 10,000 values"):
        read_yaml(f"[{', '.join('1' * 300_000)}]", "it")
    assert time.monotonic() - start < 5


def test_a_long_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\n" + "seed: 1\n" * 2**20)
    with pytest.raises(ConfigError, match=r"mine\.yaml has more than 1,048,576 characters"):
        compose_job(["experiment=mine"], config_dir=str(tmp_path))


def test_aliases_of_a_few_values_are_read(tmp_path: Path) -> None:
    text = "model:\n  units: &width [8, 8]\nsweep: *width"
    assert read_yaml(text, "it") == {"model": {"units": [8, 8]}, "sweep": [8, 8]}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: &n 7\ntraining:\n  epochs: *n\n")
    config = compose_job(["experiment=mine"], config_dir=str(tmp_path))
    assert (config.seed, config.training.epochs) == (7, 7)
