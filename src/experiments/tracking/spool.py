"""Keep what a tracking server missed while it did not answer: one append-only file per run, replayed in order.

The file is JSON lines: the store's address, then one operation per line; files to be uploaded are copied beside it.
Operations can be applied twice without harm, so an interrupted replay simply starts again.
"""

import fcntl
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from experiments import PROJECT

SpooledOperation = dict[str, Any]

SPOOL_FOLDER = PROJECT / "outputs" / "spool"


class Spool:
    """The operations of one run that its store has not received yet. False while there are none.

    Args:
        store: address of the store, without credentials.
        run_id: the run all operations belong to.
    """

    def __init__(self, store: str, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.path = SPOOL_FOLDER / f"{run_id}.jsonl"
        self._files = SPOOL_FOLDER / run_id
        self._file: BinaryIO | None = None
        self._pending: deque[SpooledOperation] = deque()

    def __bool__(self) -> bool:
        return bool(self._pending)

    def append(self, operation: SpooledOperation) -> None:
        """Write an operation to disk, with a copy of the file or folder that its key `source` names."""
        file = self._file or self._open()
        if "source" in operation:
            source = Path(operation["source"])
            kept = self._files / str(file.tell()) / source.name
            if source.is_dir():
                shutil.copytree(source, kept, dirs_exist_ok=True)
            else:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, kept)
            operation = operation | {"source": str(kept)}
        _write_line(file, operation)
        self._pending.append(operation)

    def replay(self, apply: Callable[[SpooledOperation], object]) -> None:
        """Apply the operations in order and drop each; stop at the first error of `apply`, and raise it."""
        while self._pending:
            apply(self._pending[0])
            self._pending.popleft()
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes replay the rest."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        """Open, lock and read the file, which another process may be replaying."""
        SPOOL_FOLDER.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+")
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.fstat(file.fileno()).st_nlink:  # replayed and deleted while this process waited
            file.close()
            return self._open()
        self._read(file)
        return file

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]  # a kill can leave an incomplete line
        file.truncate(len(complete))
        file.seek(len(complete))
        records = [json.loads(line) for line in complete.splitlines()]
        if records:
            self.store = records[0]["store"]
        else:
            _write_line(file, {"store": self.store})
        self._pending.extend(records[1:])
        self._file = file


def find_abandoned_spools(store: str) -> Iterator[Spool]:
    """Find the spools for `store` of runs whose process has ended."""
    for path in sorted(SPOOL_FOLDER.glob("*.jsonl")):
        try:
            file = path.open("rb+")
        except FileNotFoundError:  # replayed and deleted in the meantime
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run's process holds the lock while it is alive
            except BlockingIOError:
                continue
            spool = Spool(store, path.stem)
            spool._read(file)
            if spool.store == store and path.exists():
                yield spool


def _write_line(file: BinaryIO, record: SpooledOperation) -> None:
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
