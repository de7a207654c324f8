"""What runs logged while their stores did not answer: kept in files, and sent by whatever opens the store next.

There is a file for each run, JSON lines: the store's address, relative to the project if it is in there, then one
operation per line; files to be uploaded are copied beside it. Operations can be applied twice without harm, so an
interrupted replay simply starts again.
"""

import errno
import fcntl
import json
import os
import shlex
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import PROJECT
from experiments.formatting import as_called
from experiments.tracking.addresses import SQLITE, hide_credentials
from experiments.tracking.operations import SpooledOperation, apply_operation
from experiments.tracking.outages import first_line, is_outage
from experiments.training.checkpoints import drop_checkpoint

if TYPE_CHECKING:
    from mlflow import MlflowClient

SPOOL_FOLDER = PROJECT / "outputs" / "spool"
_told: set[Path] = set()  # the files about which this process has printed a message
_refused: set[Path] = set()  # those that their store would refuse again


class Spool:
    """The operations of one run that its store, of this address without credentials, has not received yet.

    False while there are none.
    """

    def __init__(self, store: str, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.path = SPOOL_FOLDER / f"{run_id}.jsonl"
        self._damaged = SPOOL_FOLDER / f"{self.path.name}.damaged"
        self._files = SPOOL_FOLDER / run_id
        self._file: FileIO | None = None
        self._pending: deque[SpooledOperation] = deque()

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def kinds(self) -> str:
        """The kinds of operations that wait, in their order: `model, tags, artifacts, status`."""
        return ", ".join(dict.fromkeys(next(iter(operation)) for operation in self._pending))

    def append(self, operation: SpooledOperation) -> None:
        """Write an operation to disk, with a copy of the folder that its key `source` names; raise an OSError."""
        file = self._file or self._open()
        if "source" in operation:
            source = Path(operation["source"])
            kept = self._files / str(file.seek(0, os.SEEK_END)) / source.name
            try:
                shutil.copytree(source, kept, dirs_exist_ok=True)
            except OSError as error:
                shutil.rmtree(kept.parent, ignore_errors=True)
                first = error.args[0][0][-1] if isinstance(error, shutil.Error) else str(error)  # of one for each file
                raise OSError(first) from error
            operation = operation | {"source": str(kept)}
        _write_lines(file, [operation])
        self._pending.append(operation)

    def replay(self, apply: Callable[[SpooledOperation], object]) -> None:
        """Apply the operations in order and drop each; stop at the first error of `apply`, and raise it."""
        while self._pending:
            apply(self._pending[0])
            self._pending.popleft()
        self.path.unlink(missing_ok=True)
        if not self._damaged.exists():  # which may name some of them
            shutil.rmtree(self._files, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes replay the rest."""
        if self._file is not None:
            if not self._pending:
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        """Open, lock and read the file, which another process may be replaying."""
        SPOOL_FOLDER.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.fstat(file.fileno()).st_nlink:  # replayed and deleted while this process waited
            file.close()
            return self._open()
        try:
            self._read(file)
        except OSError:
            if not os.fstat(file.fileno()).st_size:
                self.path.unlink()
            file.close()
            raise
        self._file = file
        return file

    def _read(self, file: FileIO) -> None:
        """Read the operations that wait, and the store's address, which is empty if it is damaged and not known."""
        file.seek(0)
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]  # a kill can leave an incomplete line
        file.truncate(len(complete))
        file.seek(len(complete))
        records = [_parse_line(line) for line in complete.split(b"\n")[:-1]]
        if records and not isinstance((records[0] or {}).get("store"), str):
            records[0] = None
        if records and records[0]:
            self.store = _moved_address(records[0]["store"])
        sound = [self._with_moved_source(record) for record in records[1:] if record is not None]
        if None in records:
            self._set_aside([number for number, record in enumerate(records, 1) if record is None])
            file.truncate(0)
        if self.store and not file.seek(0, os.SEEK_END):
            _write_lines(file, [{"store": _movable_address(self.store)}, *sound])
        self._pending.extend(sound)

    def _with_moved_source(self, operation: SpooledOperation) -> SpooledOperation:
        """Return an operation with the present place of its files: the project may have been moved, or copied."""
        if "source" not in operation:
            return operation
        return operation | {"source": str(self._files.joinpath(*Path(operation["source"]).parts[-2:]))}

    def _set_aside(self, damaged: list[int]) -> None:
        """Keep a copy of a file with damaged lines, of which the sound ones are sent, and say so."""
        shutil.copyfile(self.path, self._damaged)
        lines = ", ".join(map(str, damaged[:5])) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        rest = "The other lines are sent." if self.store else "Nothing of it is sent: line 1 names its store."
        print(
            f"{self.path}, which keeps what run {self.run_id} could not send to its store, is damaged in line {lines}."
            f" It is set aside as {self._damaged.name}. {rest}",
            file=sys.stderr,
        )


def waiting_notice(run_id: str, folder: str) -> str | None:
    """Say where something of a run waits to be sent, among the spools of this project or in `folder`; else None."""
    for file in (SPOOL_FOLDER / f"{run_id}.jsonl", Path(folder, f"{run_id}.jsonl")):
        if os.access(file, os.F_OK):
            return (
                f"Run {run_id} has ended, but the rest of its record waits in {file}. Any command in {file.parents[2]}"
                " that uses this store sends it, once the store takes it."
            )
    return None


def sending_command(uri: str) -> str:
    """Return a command that sends what waits for a store, as every command does that uses it."""
    return as_called(f"python scripts/compare.py --uri {shlex.quote(hide_credentials(uri))}")


def find_abandoned_spools(store: str) -> Iterator[Spool]:
    """Find the spools for `store` of runs whose process has ended."""
    for path in sorted(SPOOL_FOLDER.glob("*.jsonl")):
        try:
            file = path.open("rb+", buffering=0)
        except FileNotFoundError:  # replayed and deleted in the meantime
            continue
        except OSError as error:  # such as another user's
            _tell_once(path, f"{path} cannot be read: {error.strerror}. What it keeps for a store is not sent.")
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run's process holds the lock while it is alive
            except BlockingIOError:
                continue
            spool = Spool("", path.stem)
            try:
                spool._read(file)
            except OSError as error:  # a full disk has no room to set a damaged file aside
                _tell_once(path, f"{path} is damaged, and cannot be set aside: {error.strerror}.")
                continue
            spool._file = file
            if not spool.store:
                path.unlink()
            if spool.store == store and path.exists():
                yield spool


def send_waiting(client: "MlflowClient", store: str) -> None:
    """Send to the store, of this address without credentials, what runs that have ended could not, and end them.

    What cannot be sent now is kept for the next command, with a message.
    """
    for spool in find_abandoned_spools(store):
        if spool.path in _refused:
            continue
        try:
            spool.replay(partial(apply_operation, client, spool.run_id))
            if client.get_run(spool.run_id).info.status == "FINISHED":
                drop_checkpoint(spool.run_id)  # kept until then
        except Exception as error:
            if not is_outage(error):
                _refused.add(spool.path)
            _tell_once(
                spool.path,
                f"What run {spool.run_id} logged while the tracking store {store} did not take it cannot be sent:"
                f" {first_line(error).removesuffix('.')}. It stays in {spool.path}; delete that file to discard it.",
            )
            if getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE":  # a locked database waits for each
                return


def _tell_once(path: Path, message: str) -> None:
    """Print a message about a spool, unless this process has printed one about it."""
    if path not in _told:
        _told.add(path)
        print(message, file=sys.stderr)


def _movable_address(store: str) -> str:
    """Return the address of a store in the project relative to the project, and that of another as it is."""
    return store.replace(f"{SQLITE}{PROJECT}/", SQLITE, 1)


def _moved_address(recorded: str) -> str:
    """Return the present address of a store, from its movable one."""
    path = recorded.removeprefix(SQLITE)
    return recorded if path == recorded else f"{SQLITE}{PROJECT / path}"


def _parse_line(line: bytes) -> SpooledOperation | None:
    """Return the operation of a line, or None if the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _write_lines(file: FileIO, records: Iterable[SpooledOperation]) -> None:
    """Append lines: all of them, or none and an OSError."""
    lines, end = b"".join(json.dumps(record).encode() + b"\n" for record in records), file.seek(0, os.SEEK_END)
    try:
        if file.write(lines) != len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(end)
        raise
