"""The final state of a run, kept as an artifact, and read back to train the run further (`model.continue`)."""

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.optimizer_schema import WHOLE_RUN_SCHEDULES
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError
from experiments.formatting import plural
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_bytes
from experiments.tracking.recorded_config import check_identity, read_recorded_config
from experiments.tracking.records import find_runs
from experiments.tracking.run import TrackedRun, temporary_folder
from experiments.tracking.store import open_existing_store
from experiments.training.checkpoints import Checkpoint, parse_checkpoint

STATE_ARTIFACT = "state/state.npz"
STATE_DIGEST = "state_digest"  # tag with the SHA-256 (hex) of the artifact
CONTINUED_KEYS = ("training.epochs", "model.continue")  # in which a run may differ from the one that it continues


def continued_tags(config: Config) -> dict[str, str]:
    """Return the tag that names the run that this one continues, if it does."""
    return {"continued_from": config.model.continue_} if config.model.continue_ else {}


def keep_state(run: TrackedRun, config: Config, checkpoint: Path) -> None:
    """Log the checkpoint of a run that has done all its epochs as its final state, if the config asks for it."""
    if not config.training.keep_state:
        return
    folder, _, name = STATE_ARTIFACT.partition("/")
    with temporary_folder() as temporary:
        copy = Path(shutil.copy(checkpoint, temporary / name))
        run.log_artifacts(temporary, folder)
        run.set_tags({STATE_DIGEST: hashlib.sha256(copy.read_bytes()).hexdigest()})


def load_kept_state(config: Config, tags: Mapping[str, str]) -> Checkpoint | None:
    """Return the final state of the run that `model.continue` names, None if it names none.

    `tags` identify the current code, packages and data. Raise a StoreError or a ConfigError, before TensorFlow loads,
    if that run cannot be continued with this config. Print a line if its learning rates were those of a shorter run.
    """
    run_id, epochs = config.model.continue_, config.training.epochs
    if run_id is None:
        return None
    uri = resolve_tracking_uri(config.tracking.uri)
    try:
        (run,) = find_runs(open_existing_store(uri), [run_id])
        if run.status != "FINISHED":
            raise StoreError(f"Run {run_id} ({run.name}) is {run.status}; only finished runs can be continued.")
        if STATE_DIGEST not in run.tags:
            raise StoreError(
                f"Run {run_id} ({run.name}) has no state: only runs with training.keep_state=true keep it. To start a"
                f" new run from its weights: model.weights={run_id}"
            )
        recorded, _ = read_recorded_config(uri, run_id, other_code=True)
        content = read_artifact_bytes(uri, run_id, STATE_ARTIFACT)
    except StoreError as error:
        raise StoreError(f"model.continue: {error}") from None
    if hashlib.sha256(content).hexdigest() != run.tags[STATE_DIGEST]:
        raise StoreError(
            f"model.continue: the state of run {run_id} was changed after the run: {STATE_ARTIFACT} does not match the"
            f" tag {STATE_DIGEST}. Train it again: python scripts/reproduce.py {run_id}"
        )
    if epochs <= recorded.training.epochs:
        raise ConfigError(
            f"model.continue: run {run_id} has {recorded.training.epochs} epochs already. Give the number of epochs in"
            f" all: training.epochs={recorded.training.epochs + 1} or more."
        )
    then, now = (flatten_config(config_to_dict(each)) for each in (recorded, config))
    for key in sorted(then.keys() | now.keys()):
        if affects_result(key) and key not in CONTINUED_KEYS and then.get(key) != now.get(key):
            raise ConfigError(
                f"model.continue: {key}={now.get(key)} disagrees with run {run_id}, which has {key}={then.get(key)}."
                " Leave it out."
            )
    check_identity(uri, run_id, tags, config.resume_anyway, "continued")
    state, arrays = parse_checkpoint(content)
    if state["stopped"]:
        raise ConfigError(
            f"model.continue: training.early_stopping ended run {run_id} in epoch {state['epoch'] - 1}, so it has no"
            f" further epochs. To start a new run from its weights: model.weights={run_id}"
        )
    if isinstance(config.schedule, WHOLE_RUN_SCHEDULES):
        print(
            f"schedule={config.schedule.name} depends on training.epochs, and run {run_id} followed that of"
            f" {plural(recorded.training.epochs, 'epoch')}: the result differs from that of {plural(epochs, 'epoch')}"
            " in one run.",
            file=sys.stderr,
        )
    return state, arrays
