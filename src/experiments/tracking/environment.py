"""Describe what repeating a run elsewhere needs: the version of the code, the packages and the machine."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import PROJECT
from experiments.profiling import span
from experiments.runtime import NVIDIA_DRIVER, RECORDED_VARIABLES

if TYPE_CHECKING:
    import tensorflow as tf

LARGEST_DIFFED_FILE = 100_000  # bytes; larger files are data rather than code
MOST_NEW_FILES = 100
MOST_DIFFED_BYTES = 10_000_000  # of all changed files together
# `git apply` accepts the output, whatever the user's configuration of git.
DIFF_FORMAT = ["--binary", "--unified=3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative"]
# Where runs write: a clone ignores these folders, the repository of a working folder may not.
NOT_RUNS = [".", ":(exclude)mlruns", ":(exclude)outputs"]
DIFF_COMMAND = ["diff", *DIFF_FORMAT, "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/"]

# Vector instructions on x86 and ARM, by which TensorFlow, XLA and oneDNN choose code and so the order of sums.
VECTOR_INSTRUCTIONS = r"\b(?:avx\w*|fma|amx\w*|asimd\w*|sve\w*)\b"


@dataclass(frozen=True)
class CodeState:
    """The state of the project's git repository; empty if there is none."""

    commit: str  # empty before the first commit
    diff: bytes  # all changes since the commit, including new files; each line in the encoding of its file

    @property
    def tags(self) -> dict[str, str]:
        return {"git_commit": self.commit, "git_dirty": str(bool(self.diff)).lower()}


@span("state of the code")
def read_code_state(project: Path = PROJECT) -> CodeState:
    """Return the commit that is checked out and the changes since; before the first commit, everything is a change.

    If git fails in a repository, stderr and the diff say why.
    """
    commit, diff = "", b""
    try:
        commit = _run_git(project, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
        diff = _uncommitted_changes(project, commit)
    except RuntimeError as error:
        if any((folder / ".git").exists() for folder in (project, *project.parents)):
            _warn_once(project, commit, str(error))
        if commit:
            diff = f"# git could not list the changes: {error}\n".encode()
    return CodeState(commit, diff)


def _uncommitted_changes(project: Path, commit: str) -> bytes:
    """Return the diff since the commit; name the files that it leaves out."""
    base = commit or _run_git(project, "hash-object", "-t", "tree", os.devnull).decode().strip()  # the empty tree
    listed = _run_git(project, "ls-files", "--others", "--exclude-standard", "-z", "--", *NOT_RUNS).split(b"\0")
    new_files = [os.fsdecode(name) for name in listed if name]
    diffs = ((name, diff) for name in new_files if (diff := _as_new_file(project, name)))
    added = dict(islice(diffs, MOST_NEW_FILES))
    left_out = (os.fsencode(name) for name in new_files if name not in added)
    notes = [b"# new file left out (too large, too many, or not a regular file): %s\n" % name for name in left_out]
    top = Path(os.fsdecode(_run_git(project, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    kept, large = _sort_changed_files(top, base)
    words = b"# changed file left out (larger than %d bytes, or too many): %s\n"
    notes += [words % (LARGEST_DIFFED_FILE, os.fsencode(name)) for name in large]
    paths = [f":(literal){name}" for name in kept]
    changes = [_run_git(top, *DIFF_COMMAND, base, "--", *batch) for batch in _batches(paths)]
    return b"".join([*changes, *added.values(), *notes])


def _sort_changed_files(top: Path, base: str) -> tuple[list[str], list[str]]:
    """Return the changed files, and apart from them those that are large, now or in the commit, or exceed the sum."""
    listed = _run_git(top, "diff", "--name-only", "--no-renames", "-z", base).split(b"\0")
    names = [os.fsdecode(name) for name in listed if name]
    sizes = {name: (top / name).lstat().st_size if os.path.lexists(top / name) else 0 for name in names}
    for batch in _batches(names):
        for entry in _run_git(top, "ls-tree", "-l", "-z", "--full-tree", base, "--", *batch).split(b"\0"):
            facts, _, path = entry.partition(b"\t")
            if facts and (size := facts.split()[3]).isdigit():  # a submodule has none
                sizes[os.fsdecode(path)] = max(sizes.get(os.fsdecode(path), 0), int(size))
    by_size = sorted(names, key=lambda name: sizes[name])
    sums = accumulate(sizes[name] for name in by_size)
    kept = {n for n, s in zip(by_size, sums, strict=True) if sizes[n] <= LARGEST_DIFFED_FILE and s <= MOST_DIFFED_BYTES}
    return [name for name in names if name in kept], [name for name in names if name not in kept]


def _batches(arguments: list[str]) -> Iterator[list[str]]:
    """Yield as many at a time as a command takes."""
    for start in range(0, len(arguments), 500):
        yield arguments[start : start + 500]


loaded_code_state = cache(read_code_state)  # the version that this process runs, unaffected by later edits


def _as_new_file(project: Path, name: str) -> bytes:
    """Return the diff that adds a file; empty if the file is large or cannot be read."""
    try:
        if (project / name).lstat().st_size > LARGEST_DIFFED_FILE:
            return b""
        return _run_git(project, *DIFF_COMMAND, "--no-index", "--", os.devnull, name)
    except (FileNotFoundError, RuntimeError):  # deleted since git listed it, or not readable
        return b""


def _run_git(project: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True)
    except FileNotFoundError:
        raise RuntimeError("git is not installed") from None
    if done.returncode not in (0, 1):  # 1: no commit yet, or a difference
        raise RuntimeError(os.fsdecode(done.stderr))
    return done.stdout


@cache  # once per process
def _warn_once(project: Path, commit: str, why: str) -> None:
    lines = [line.strip() for line in why.splitlines() if line.strip()] or ["git failed"]
    advice = next((line for line in lines if line.startswith("git config")), f"make `git -C {project} diff` work")
    lost = f"changes in {project} since commit {commit[:8]}" if commit else f"commit of {project} and the changes since"
    print(f"The {lost} are not recorded: {lines[0]}. To record them: {advice}", file=sys.stderr)


@cache  # as loaded by this process
def installed_packages() -> str:
    """Return every installed package as a sorted line `name==version`."""
    return "".join(sorted({f"{d.name}=={d.version}\n" for d in distributions()}, key=str.lower))


def describe_hardware() -> dict[str, object]:
    """Return the facts about the machine that can affect a result or its cost (devices as TensorFlow sees them)."""
    import tensorflow as tf

    processor = _read_processor()
    flags = processor.get("flags") or processor.get("Features", "")
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": processor.get("model name", platform.processor()),
        "instructions": sorted(set(re.findall(VECTOR_INSTRUCTIONS, flags))),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [_describe_gpu(gpu) for gpu in tf.config.list_physical_devices("GPU")],
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "switches": {  # without flags that name folders of this machine
            name: " ".join(flag for flag in os.environ[name].split() if "/" not in flag)
            for name in RECORDED_VARIABLES
            if name in os.environ
        },
    }


def _describe_gpu(gpu: "tf.config.PhysicalDevice") -> str:
    """Return a GPU's name and the versions of the software that computes on it."""
    import tensorflow as tf

    name = tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    driver = re.search(r"\d+\.[\d.]+", NVIDIA_DRIVER.read_text()) if NVIDIA_DRIVER.exists() else None
    built, cuda = tf.sysconfig.get_build_info(), ctypes.c_int()
    loaded = {"CUDA": built.get("cuda_version", "not known"), "cuDNN": built.get("cudnn_version", "not known")}
    with suppress(OSError, AttributeError):  # the versions of the libraries that are loaded, such as 13000 and 91400
        library = ctypes.CDLL(f"libcudart.so.{str(loaded['CUDA']).partition('.')[0]}")
        if library.cudaRuntimeGetVersion(ctypes.byref(cuda)) == 0:
            loaded["CUDA"] = str(cuda.value)
    with suppress(OSError, AttributeError):
        loaded["cuDNN"] = str(ctypes.CDLL(f"libcudnn.so.{built.get('cudnn_version')}").cudnnGetVersion())
    versions = f"CUDA {loaded['CUDA']}, cuDNN {loaded['cuDNN']}"
    return f"{name}, driver {driver[0] if driver else 'not known'}, {versions}"


def _read_processor() -> dict[str, str]:
    """Return what Linux says about the first processor; nothing on other systems."""
    information = Path("/proc/cpuinfo")
    lines = reversed(information.read_text().splitlines()) if information.exists() else ()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
