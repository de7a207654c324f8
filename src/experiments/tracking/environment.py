"""Describe what repeating a run elsewhere needs: the version of the code, the packages and the machine."""

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

LARGEST_NEW_FILE = 100_000  # bytes; larger new files are data rather than code
MOST_NEW_FILES = 100
# `git apply` accepts the output, whatever the user's configuration of git.
DIFF_FORMAT = ["--binary", "--unified=3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative"]
DIFF_COMMAND = ["diff", *DIFF_FORMAT, "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/"]

# Vector instructions on x86 and ARM, by which TensorFlow, XLA and oneDNN choose code and so the order of sums.
VECTOR_INSTRUCTIONS = r"\b(?:avx\w*|fma|amx\w*|asimd\w*|sve\w*)\b"
# Environment variables that affect this choice.
SWITCH_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")


@dataclass(frozen=True)
class CodeState:
    """The state of the project's git repository; empty if there is none."""

    commit: str  # empty before the first commit
    diff: bytes  # all changes since the commit, including new files; each line in the encoding of its file

    @property
    def tags(self) -> dict[str, str]:
        return {"git_commit": self.commit, "git_dirty": str(bool(self.diff)).lower()}


class _GitError(Exception):
    """Git failed, with its message, or is not installed."""


@span("state of the code")
def read_code_state(project: Path = PROJECT) -> CodeState:
    """Return the commit that is checked out and the changes since; before the first commit, everything is a change.

    If git fails in a repository, stderr and the diff say why.
    """
    commit, diff = "", b""
    try:
        commit = _run_git(project, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
        diff = _uncommitted_changes(project, commit)
    except _GitError as error:
        if any((folder / ".git").exists() for folder in (project, *project.parents)):
            _warn_once(project, commit, str(error))
        if commit:
            diff = f"# git could not list the changes: {error}\n".encode()
    return CodeState(commit, diff)


def _uncommitted_changes(project: Path, commit: str) -> bytes:
    """Return the diff since the commit; name the new files that it leaves out."""
    base = commit or _run_git(project, "hash-object", "-t", "tree", os.devnull).decode().strip()  # the empty tree
    listed = _run_git(project, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    new_files = [os.fsdecode(name) for name in listed if name]
    small = [name for name in new_files if _is_small(project / name)][:MOST_NEW_FILES]
    added = {name: _as_new_file(project, name) for name in small}
    left_out = (os.fsencode(name) for name in new_files if not added.get(name))
    notes = (b"# new file left out (too large, too many, or not a regular file): %s\n" % name for name in left_out)
    return b"".join([_run_git(project, *DIFF_COMMAND, base), *added.values(), *notes])


@cache
def loaded_code_state() -> CodeState:
    """Return the version of the code that this process runs, unaffected by later edits."""
    return read_code_state()


def _is_small(file: Path) -> bool:
    try:
        return file.lstat().st_size <= LARGEST_NEW_FILE
    except FileNotFoundError:  # deleted since git listed it
        return False


def _as_new_file(project: Path, name: str) -> bytes:
    """Return the diff that adds a file; empty if it cannot be read."""
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
    print(f"The {lost} are not recorded: {lines[0]}. To record them: {advice}", file=sys.stderr)


def installed_packages() -> str:
    """Return every installed package as a sorted line `name==version`."""
    return "".join(sorted({f"{d.name}=={d.version}\n" for d in distributions()}, key=str.lower))


def describe_hardware() -> dict[str, object]:
    """Return the facts about the machine that can affect a result or its cost (devices as TensorFlow sees them)."""
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
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ],
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "switches": {name: _without_folders(os.environ[name]) for name in SWITCH_VARIABLES if name in os.environ},
    }


def _without_folders(flags: str) -> str:
    """Return the flags that name no folder of this machine."""
    return " ".join(flag for flag in flags.split() if "/" not in flag)


def _processor_fact(fact: str) -> str:
    """Return a fact about the first processor from Linux; elsewhere, only its name is known."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith(fact):
                return line.partition(":")[2].strip()
    return platform.processor() if fact == "model name" else ""
