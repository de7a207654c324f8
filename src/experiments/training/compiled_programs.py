"""Programs that XLA has compiled, kept in outputs/ for later processes: compiling takes most of a first epoch.

TensorFlow reads and writes a folder of them, but neither safely: a file that another process is writing, or that a
crash cut off, ends a run. So each process gets a folder of its own, with links to the programs whose digests are right,
and the new ones among them are shared once they are whole. A program is only used where it was compiled: by the same
versions and flags, for the same devices, on this machine, in this folder. One that came with a copied or downloaded
project is not: its machine code could do anything.
"""

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from experiments import PROJECT
from experiments.profiling import span

PROGRAM_FOLDER = PROJECT / "outputs" / "compiled"
LARGEST_FOLDER = 64 * 2**20  # bytes of programs for the same devices and versions; the oldest go first
NEEDED_SPACE = 500 * 2**20  # free bytes: TensorFlow ends a run if it cannot write a program
DAY = 86400  # seconds
DAYS_KEPT = 30  # programs that nothing has used for so long are removed
FLAG = "--tf_xla_persistent_cache_directory"

_process: tuple[int, Path] | None = None  # the process that has a folder, which is not another's after a fork


@contextlib.contextmanager
def kept_programs(threads: int, devices: int, tensor_float_32: bool) -> Iterator[None]:
    """Let XLA use the kept programs, and keep its own; TensorFlow must take its first device within this context.

    Nothing happens where programs cannot be kept: in a folder that cannot be written, or on a disk that is almost full.
    """
    global _process
    given = os.environ.get("TF_XLA_FLAGS")
    if FLAG not in (given or "") and (_process is None or _process[0] != os.getpid()):
        with contextlib.suppress(OSError):
            folder = _prepare_folder(_environment_key(threads, devices, tensor_float_32))
            if folder and "'" not in str(folder):
                _process = os.getpid(), folder
                os.environ["TF_XLA_FLAGS"] = f"{given or ''} {FLAG}='{folder}'".strip()
    try:
        yield
    finally:  # processes that this one starts have folders of their own
        os.environ.pop("TF_XLA_FLAGS", None)
        if given is not None:
            os.environ["TF_XLA_FLAGS"] = given


@span("keeping compiled programs")
def share_programs() -> None:
    """Share the programs that this process has compiled."""
    if _process is None or _process[0] != os.getpid():
        return
    with contextlib.suppress(OSError):
        folder = _process[1].parent
        shared = {path.name.partition("-")[2] for path in folder.glob("*.pb")}
        for file in _process[1].glob("*.pb"):
            if file.name not in shared:
                with contextlib.suppress(FileExistsError):
                    os.link(file, folder / f"{_digest(file)}-{file.name}")
        newest_first = sorted(folder.glob("*.pb"), key=lambda path: -path.stat().st_mtime)
        size = 0
        for path in newest_first:
            size += path.stat().st_size
            if size > LARGEST_FOLDER:
                path.unlink(missing_ok=True)


def _prepare_folder(key: str) -> Path | None:
    """Return a new folder for this process, with links to the programs of this key; None if nothing can be kept."""
    PROGRAM_FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = PROGRAM_FOLDER.stat()
    if facts.st_uid != os.getuid() or shutil.disk_usage(PROGRAM_FOLDER).free < NEEDED_SPACE:
        return None
    _remove_unused()
    place = f"{socket.gethostname()} {facts.st_dev} {facts.st_ino}"  # a copy has another number
    shared = PROGRAM_FOLDER / hashlib.sha256(f"{key} {place}".encode()).hexdigest()[:32]
    shared.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="process-", dir=shared))
    atexit.register(_remove_own, os.getpid(), folder)
    for path in shared.glob("*.pb"):
        digest, _, name = path.name.partition("-")
        if digest == _digest(path):
            os.link(path, folder / name)
        else:  # a crash cut it off, or the disk lost it
            path.unlink()
    return folder


def _remove_unused() -> None:
    """Remove the folders of processes that were killed, and programs of other versions that nothing uses any more."""
    now = time.time()
    for path in PROGRAM_FOLDER.glob("*/process-*"):
        if now - path.stat().st_mtime > DAY:  # a process that still runs makes its folder again
            shutil.rmtree(path, ignore_errors=True)
    for path in PROGRAM_FOLDER.iterdir():
        if now - path.stat().st_mtime > DAYS_KEPT * DAY:
            shutil.rmtree(path, ignore_errors=True)


def _remove_own(process: int, folder: Path) -> None:
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _environment_key(*process_settings: int) -> str:
    """Return all that a compiled program depends on besides its own description."""
    facts = [version("tensorflow"), *map(str, process_settings)]
    facts += [os.environ.get(name, "") for name in ("XLA_FLAGS", "TF_XLA_FLAGS", "LD_LIBRARY_PATH")]
    for pattern in ("/proc/cpuinfo", "/proc/driver/nvidia/version", "/proc/driver/nvidia/gpus/*/information"):
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            first = path.read_text(errors="replace").partition("\n\n")[0]
            facts += re.findall(r"^(?:model name|flags|Features|NVRM.*|Model)\s*:.*", first, re.MULTILINE)
    return "\n".join(facts)
