"""What a run needs to be repeated elsewhere: the code's version, the packages and the machine."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from experiments import PROJECT
from experiments.profiling import span

LARGEST_NEW_FILE = 100000  # bytes; beyond them a new file is data rather than code
MOST_NEW_FILES = 100  # bytes; beyond them a new file is data rather than code
# `git apply` takes what comes out, whatever the user's git is configured to show.
DIFF_FORMAT = ["--binary", "--unified=3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative"]
DIFF_COMMAND = ["diff", *DIFF_FORMAT, "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/"]

# Instructions for vectors, on x86 and ARM: by them TensorFlow, XLA and oneDNN choose code, and so the order of sums.
VECTOR_INSTRUCTIONS = r"\b(?:avx\w*|fma|amx\w*|asimd\w*|sve\w*)\b"
# Variables by which they choose, too.
SWITCH_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")


@dataclass(frozen=True)
class CodeState:
    """The state of the project's git repository; empty where there is none."""

    commit: str  # empty before the first one
    diff: bytes  # of all changes since it, new files too; each line in the encoding of its file

    @property
    def tags(self) -> dict[str, str]:
        return {"git_commit": self.commit, "git_dirty": str(bool(self.diff)).lower()}


class _GitError(Exception):
    """Git gave no answer: its words, or that there is no git."""


@span("state of the code")
def read_code_state(project: Path = PROJECT) -> CodeState:
    """The commit that is checked out, and what differs from it; all there is before the first commit.

    Where there is a repository and git does not tell all of it, stderr and the diff say why.
    """
    commit, diff = "", b""
    try:
        commit = _run_git(project, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
        diff = _uncommitted_changes(project, commit)
    except _GitError as error:
        if any((folder / ".git").exists() for folder in (project, *project.parents)):
            _warn_once(project, commit, str(error))
        if commit:
            diff = f"# git did not tell what has changed: {error}\n".encode()
    return CodeState(commit, diff)


def _uncommitted_changes(project: Path, commit: str) -> bytes:
    base = commit or _run_git(project, "hash-object", "-t", "tree", os.devnull).decode().strip()  # the empty tree
    listed = _run_git(project, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    new_files = [os.fsdecode(name) for name in listed if name]
    small = [name for name in new_files if _is_small(project / name)][:MOST_NEW_FILES]
    added = {name: _as_new_file(project, name) for name in small}
    left_out = (os.fsencode(name) for name in new_files if not added.get(name))
    notes = (b"# new, and not kept, as it is too large, one of too many, or no file: %s\n" % name for name in left_out)
    return b"".join([_run_git(project, *DIFF_COMMAND, base), *added.values(), *notes])


@cache
def loaded_code_state() -> CodeState:
    """The version of the code that this process runs, which later edits do not change."""
    return read_code_state()


def _is_small(file: Path) -> bool:
    try:
        return file.lstat().st_size <= LARGEST_NEW_FILE
    except FileNotFoundError:  # gone since git listed it
        return False


def _as_new_file(project: Path, name: str) -> bytes:
    """What adds a file; empty if it cannot be read."""
    try:
        return _run_git(project, *DIFF_COMMAND, "--no-index", "--", os.devnull, name)
    except _GitError:
        return b""


def _run_git(project: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True)
    except FileNotFoundError:
        raise _GitError("git is not installed") from None
    if done.returncode not in (0, 1):  # 1: no commit yet, or a difference
        raise _GitError(os.fsdecode(done.stderr))
    return done.stdout


@cache  # once per process
def _warn_once(project: Path, commit: str, why: str) -> None:
    lines = [line.strip() for line in why.splitlines() if line.strip()] or ["git failed"]
    advice = next((line for line in lines if line.startswith("git config")), f"make `git -C {project} diff` work")
    lost = f"changes in {project} since commit {commit[:8]}" if commit else f"commit of {project} and the changes since"
    print(f"The {lost} are not recorded: {lines[0]}. To have them recorded: {advice}", file=sys.stderr)


def installed_packages() -> str:
    """Every installed package, one `name==version` a line, sorted."""
    return "".join(sorted({f"{d.name}=={d.version}\n" for d in distributions()}, key=str.lower))


def describe_hardware() -> dict[str, object]:
    """The machine as far as it can change a result or its cost (devices as TensorFlow sees them)."""
    import tensorflow as tf

    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor_fact("model name"),
        "instructions": sorted(
            set(re.findall(VECTOR_INSTRUCTIONS, _processor_fact("flags") or _processor_fact("Features")))
        ),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in _tensorflow_gpus()],
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "switches": {name: _without_folders(os.environ[name]) for name in SWITCH_VARIABLES if name in os.environ},
    }


def _without_folders(flags: str) -> str:
    """What is set, less what is about a folder of this machine."""
    return " ".join(flag for flag in flags.split() if "/" not in flag)


def _tensorflow_gpus() -> list:
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def _processor_fact(fact: str) -> str:
    """What Linux says of the first processor; elsewhere, its name is what Python knows."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith(fact):
                return line.partition(":")[2].strip()
    return platform.processor() if fact == "model name" else ""
