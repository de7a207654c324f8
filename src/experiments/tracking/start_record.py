"""The record of how a run started: its config, data, environment, and the digests of the recorded files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from experiments import PROJECT
from experiments.config.identity import config_to_dict, flatten_config
from experiments.config.schema import Config
from experiments.data.datasets import Dataset
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.environment import CodeState, describe_hardware, installed_packages
from experiments.tracking.recorded_config import CONFIG_ARTIFACT, OVERRIDES_ARTIFACT
from experiments.tracking.run import TrackedRun

RECORD_DIGESTS = "record_digests"  # tag with the SHA-256 (hex) of each recorded file, as JSON


def run_params(config: Config) -> dict[str, object]:
    """Return the config as MLflow's params, flat and dotted, less what only config.yaml needs to keep."""
    left_out = ("data.checksums", "resume", "tracking.uri", "tracking.run_name", "objective.", "sweep.", "expected")
    return {key: value for key, value in flatten_config(config_to_dict(config)).items() if not key.startswith(left_out)}


def record_start(run: TrackedRun, config: Config, overrides: Sequence[str], dataset: Dataset, code: CodeState) -> None:
    """Log all that is needed to repeat the run: config, overrides, data and environment."""
    run.log_params(run_params(config))  # also of a run that was killed before it had them
    without_uri = replace(config, tracking=replace(config.tracking, uri=None))  # it may contain a password
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = {
        CONFIG_ARTIFACT: yaml.safe_dump(config_to_dict(without_uri), sort_keys=False, allow_unicode=True),
        OVERRIDES_ARTIFACT: yaml.safe_dump([hide_credentials(o) for o in overrides], allow_unicode=True),
        "environment/packages.txt": installed_packages(),
        "environment/hardware.json": json.dumps(describe_hardware(), indent=2),
        "environment/requirements.lock": (PROJECT / "requirements.lock").read_text(),
    }
    contents = {path: text.encode() for path, text in texts.items()} | {"environment/uncommitted.diff": code.diff}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    run.set_tags({RECORD_DIGESTS: json.dumps(digests)})
    with TemporaryDirectory() as folder:
        for path, content in contents.items():
            target = Path(folder, path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        run.log_artifacts(Path(folder))
