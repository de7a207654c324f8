"""One checkpoint per run, written whole or not at all, so that a resumed run equals one that never stopped.

Beside it are the checkpoint before it, the lock of the process that trains, and how the run was started.
"""

import fcntl
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments import PROJECT
from experiments.errors import UserError, existing_place, machine_limit
from experiments.profiling import span

CHECKPOINT_FOLDER = PROJECT / "outputs" / "checkpoints"
Checkpoint = tuple[dict[str, Any], dict[str, list[np.ndarray]]]  # the state, and the arrays by name


def checkpoint_path(run_id: str) -> Path:
    """Return the path of a run's checkpoint, which exists until the run is finished."""
    return CHECKPOINT_FOLDER / f"{run_id}.npz"


def start_path(run_id: str) -> Path:
    """Return the path of the file that keeps how a run was started until it is finished."""
    return CHECKPOINT_FOLDER / f"{run_id}.json"


def pending_start_path(name: str) -> Path:
    """Return the path of the file that keeps how a run is started, under this name, until the run exists."""
    return CHECKPOINT_FOLDER / f"{name}.starting"


def has_checkpoint(run_id: str) -> bool:
    path = checkpoint_path(run_id)
    return path.exists() or _previous(path).exists()


def drop_checkpoint(run_id: str) -> None:
    """Delete the checkpoints of a run that is finished, and the files beside them."""
    path = checkpoint_path(run_id)
    for file in (path, _previous(path), path.with_suffix(".tmp"), start_path(run_id), path.with_suffix(".lock")):
        file.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous")


def check_checkpoint_folder() -> None:
    """Raise a UserError, before a run is made, if its checkpoints cannot be written."""
    folder = existing_place(CHECKPOINT_FOLDER)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"Checkpoints are written to {CHECKPOINT_FOLDER}, but {folder} is not writable. Make it writable, or copy"
            " the project."
        )


@contextmanager
def lock_checkpoint(run_id: str) -> Iterator[None]:
    """Hold the lock of a run's checkpoint, or raise a UserError if another process has it.

    The kernel releases the lock of a process that dies, and it holds between containers that share the folder.
    """
    path = checkpoint_path(run_id).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked_file(path, run_id) as file:
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):  # else it was deleted, and made by another
                    path.unlink()


def _locked_file(path: Path, run_id: str) -> IO[str]:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"Run {run_id} is still running, in another process. Wait for it, or stop that process."
        ) from None
    if not os.fstat(file.fileno()).st_nlink:  # deleted by the process that had it until now
        file.close()
        return _locked_file(path, run_id)
    return file


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file that is whole, also after a power failure, or raise a UserError."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        reason = machine_limit(error) or f"{error.strerror}."
        raise UserError(f"{path} cannot be written: {reason} Checkpoints go there too.") from None


@span("checkpoint")
def save_checkpoint(path: Path, state: Mapping[str, Any], arrays: Mapping[str, list[np.ndarray]]) -> None:
    """Write a checkpoint (JSON data, arrays by name) and keep the one before it, should this one be damaged later.

    A kill leaves the earlier one or this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    flat = {f"{name}/{index}": array for name, group in arrays.items() for index, array in enumerate(group)}
    with temporary.open("wb") as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **flat)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(_previous(path))
    temporary.replace(path)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Return the state and the arrays as they were saved last; None if there are none.

    A damaged checkpoint is reported on stderr and deleted; the one before it takes its place.
    """
    for file in (path, _previous(path)):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        try:
            return parse_checkpoint(content)
        except Exception as error:  # depending on the byte, zipfile, NumPy or JSON raise almost anything
            instead = "the one before it" if file == path and _previous(path).exists() else "the start"
            print(
                f"The checkpoint {file} is damaged ({type(error).__name__}) and is deleted. The run continues from"
                f" {instead}; only time is lost, as the same epochs give the same results.",
                file=sys.stderr,
            )
            file.unlink(missing_ok=True)  # else the next save would let it replace the one before it
    return None


def parse_checkpoint(content: bytes) -> Checkpoint:
    """Return the state and the arrays in the bytes of a checkpoint."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        state = json.loads(stored["state"].tobytes())
        for key in stored.files:
            name, separator, index = key.partition("/")
            if separator:
                groups.setdefault(name, {})[int(index)] = stored[key]
    return state, {name: [group[index] for index in sorted(group)] for name, group in groups.items()}
