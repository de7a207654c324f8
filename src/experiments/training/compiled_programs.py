"""Programs that XLA has compiled, kept in outputs/ for later processes: compiling takes most of a first epoch.

TensorFlow reads and writes a folder of them, but a file that a crash cut off, or that the disk has damaged, ends a run.
So each process gets a folder of its own, with links to the programs whose digests are right, and shares its new ones
once they are whole. A program is only used where it was compiled: by the same versions and flags, for the same devices,
on this machine, in this folder. One that came with a copied or downloaded project is not: its machine code could do
anything.
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
from importlib.metadata import distributions, version
from pathlib import Path

from experiments import PROJECT
from experiments.profiling import span
from experiments.runtime import (
    KEPT_PROGRAMS_FLAG,
    NVIDIA_DRIVER,
    XLA_DEFAULT,
    XLA_GPU_DEFAULTS,
    has_nvidia_driver,
    xla_flags_of_user,
)

PROGRAM_FOLDER = PROJECT / "outputs" / "compiled"
LARGEST_FOLDER = 64 * 2**20  # bytes; the programs that were compiled first go first
NEEDED_SPACE = 500 * 2**20  # free bytes: TensorFlow ends a run if it cannot write a program
DAY = 86400  # seconds
DAYS_KEPT = 30  # programs that nothing has used for so long are removed

_process: tuple[int, Path] | None = None  # the process that has a folder, which is not another's after a fork


@contextlib.contextmanager
def kept_programs(threads: int, devices: int, tensor_float_32: bool) -> Iterator[None]:
    """Let XLA use the kept programs, and keep its own; TensorFlow must take its first device within this context.

    Nothing happens where programs cannot be kept: in a folder that cannot be written, or on a disk that is almost full.
    """
    global _process
    given = os.environ.get("TF_XLA_FLAGS")
    are_flags = not given or given.lstrip().startswith("-")  # otherwise it names a file of them
    if are_flags and KEPT_PROGRAMS_FLAG not in (given or "") and (_process is None or _process[0] != os.getpid()):
        with contextlib.suppress(OSError):
            folder = _prepare_folder(_environment_key(threads, devices, tensor_float_32))
            if folder and "'" not in str(folder):
                _process = os.getpid(), folder
                os.environ["TF_XLA_FLAGS"] = f"{given or ''} {KEPT_PROGRAMS_FLAG}='{folder}'".strip()
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
        found = [(-path.stat().st_mtime, path.stat().st_size, path) for path in PROGRAM_FOLDER.glob("*/*.pb")]
        size = 0
        for _, bytes_of_program, path in sorted(found):
            size += bytes_of_program
            if size > LARGEST_FOLDER:
                path.unlink(missing_ok=True)


def _prepare_folder(key: str) -> Path | None:
    """Return a new folder for this process, with links to the programs of this key; None if nothing can be kept."""
    PROGRAM_FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = PROGRAM_FOLDER.stat()
    others_may_write = facts.st_mode & 0o022
    if others_may_write or facts.st_uid != os.getuid() or shutil.disk_usage(PROGRAM_FOLDER).free < NEEDED_SPACE:
        return None
    _remove_unused()
    place = f"{socket.gethostname()} {facts.st_dev} {facts.st_ino}"  # a copy has another number
    shared = PROGRAM_FOLDER / hashlib.sha256(f"{key} {place}".encode()).hexdigest()[:32]
    shared.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="process-", dir=shared))
    atexit.register(_remove_own, os.getpid(), folder)
    for path in shared.glob("*.pb"):
        digest, _, name = path.name.partition("-")
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if digest == _digest(path) and not (folder / name).exists():
                os.link(path, folder / name)
            else:  # a crash cut it off, the disk has damaged it, or two processes have shared it at once
                path.unlink()
    return folder


def _remove_unused() -> None:
    """Remove the folders of processes that were killed, and programs of other versions that nothing uses any more."""
    now = time.time()
    of_processes, of_versions = PROGRAM_FOLDER.glob("*/process-*"), PROGRAM_FOLDER.iterdir()
    for paths, age in ((of_processes, DAY), (of_versions, DAYS_KEPT * DAY)):  # a process makes its folder again
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if now - path.stat().st_mtime > age:
                    shutil.rmtree(path, ignore_errors=True)


def _remove_own(process: int, folder: Path) -> None:
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _environment_key(*process_settings: int) -> str:
    """Return all that a compiled program depends on besides its own description."""
    facts = [version("tensorflow"), *map(str, process_settings)]
    facts += [XLA_DEFAULT, *XLA_GPU_DEFAULTS, *xla_flags_of_user()]
    facts += [os.environ.get(name, "") for name in ("TF_XLA_FLAGS", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")]
    if has_nvidia_driver():
        facts += sorted(f"{d.name} {d.version}" for d in distributions() if d.name.startswith("nvidia"))
    for pattern in ("/proc/cpuinfo", str(NVIDIA_DRIVER), "/proc/driver/nvidia/gpus/*/information"):
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            first = path.read_text(errors="replace").partition("\n\n")[0]
            facts += re.findall(r"^(?:model name|flags|Features|NVRM.*|Model)\s*:.*", first, re.MULTILINE)
    return "\n".join(facts)
