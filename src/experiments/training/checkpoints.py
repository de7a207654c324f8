"""One checkpoint per run, written whole or not at all, so that a resumed run equals one that never stopped."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments import PROJECT
from experiments.errors import UserError
from experiments.profiling import span

CHECKPOINT_FOLDER = PROJECT / "outputs" / "checkpoints"

StoredState = tuple[dict[str, Any], dict[str, list[np.ndarray]]]  # JSON data, arrays by name


def checkpoint_path(run_id: str) -> Path:
    """Return the path of a run's checkpoint, which exists until the run is finished."""
    return CHECKPOINT_FOLDER / f"{run_id}.npz"


def check_checkpoint_folder() -> None:
    """Raise a UserError, before a run is made, if its checkpoints cannot be written."""
    folder = next(parent for parent in (CHECKPOINT_FOLDER, *CHECKPOINT_FOLDER.parents) if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"Checkpoints are written to {CHECKPOINT_FOLDER}, but {folder} is not writable. Make it writable, or copy"
            " the project."
        )


@span("checkpoint")
def save_checkpoint(path: Path, state: Mapping[str, Any], arrays: Mapping[str, list[np.ndarray]]) -> None:
    """Replace the checkpoint at `path` (JSON data, arrays by name); a kill leaves the earlier one or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    flat = {f"{name}/{index}": array for name, group in arrays.items() for index, array in enumerate(group)}
    with temporary.open("wb") as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **flat)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path | BinaryIO) -> StoredState:
    """Return the state and the arrays as they were saved."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as stored:
        state = json.loads(stored["state"].tobytes())
        for key in stored.files:
            name, separator, index = key.partition("/")
            if separator:
                groups.setdefault(name, {})[int(index)] = stored[key]
    return state, {name: [group[index] for index in sorted(group)] for name, group in groups.items()}
