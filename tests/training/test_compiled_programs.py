"""Programs that XLA compiled are used by later processes: whole ones only, made here, in the same environment."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT

from experiments.runtime import KEPT_PROGRAMS_FLAG
from experiments.training import compiled_programs
from experiments.training.compiled_programs import kept_programs, share_programs

# Training with another folder of programs.
TRAIN = """
import sys
from pathlib import Path
import numpy as np
from experiments.training import compiled_programs
compiled_programs.PROGRAM_FOLDER = Path(sys.argv[1])
from train_once import train
np.savez(sys.argv[2], **train(["data=digits", "data.validation=0", "training.epochs=2"]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiled_programs, "PROGRAM_FOLDER", tmp_path / "outputs of mine" / "compiled")
    monkeypatch.setattr(compiled_programs, "_process", None)
    return tmp_path / "outputs of mine" / "compiled"


def programs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*/*.pb")}


def as_new_process(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the next process would have."""
    monkeypatch.setattr(compiled_programs, "_process", None)
    with kept_programs(1, 1, False):
        return Path(os.environ["TF_XLA_FLAGS"].removeprefix(f"{KEPT_PROGRAMS_FLAG}='").removesuffix("'"))


@pytest.mark.slow
def test_a_later_process_trains_alike_with_kept_programs_and_after_they_were_damaged(tmp_path: Path) -> None:
    results, kept = [], []
    for number in range(3):
        out, folder = tmp_path / f"{number}.npz", tmp_path / "kept programs"
        environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'tests'}:{PROJECT / 'src'}"}
        subprocess.run([sys.executable, "-c", TRAIN, folder, out], env=environment, check=True, cwd=PROJECT)
        with np.load(out) as stored:
            results.append(dict(stored))
        kept.append(programs(folder))
        if number == 1:
            for path in folder.glob("*/*.pb"):
                path.write_bytes(path.read_bytes()[:-100])
    assert len(kept[0]) == 1
    assert kept[1] == kept[0]
    assert len(kept[2]) == 1
    for name, value in results[0].items():
        for other in results[1:]:
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert [path.name for path in tmp_path.rglob("process-*")] == []


def test_a_new_program_is_shared_with_later_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", "--a=1")
    with kept_programs(1, 1, False):
        flags = os.environ["TF_XLA_FLAGS"]
    assert os.environ["TF_XLA_FLAGS"] == "--a=1"
    own = Path(flags.removeprefix(f"--a=1 {KEPT_PROGRAMS_FLAG}='").removesuffix("'"))
    (own / "one.pb").write_bytes(b"program")
    share_programs()
    share_programs()
    assert list(programs(folder).values()) == [b"program"]

    with kept_programs(1, 1, False):  # a process keeps its folder
        assert os.environ["TF_XLA_FLAGS"] == "--a=1"
    monkeypatch.delenv("TF_XLA_FLAGS")
    assert [path.name for path in as_new_process(monkeypatch).iterdir()] == []  # with other flags
    monkeypatch.setenv("TF_XLA_FLAGS", "--a=1")
    monkeypatch.setattr(compiled_programs, "_process", None)
    with kept_programs(1, 1, False):
        (other,) = {*folder.glob("*/process-*/one.pb")} - {own / "one.pb"}
    assert other.read_bytes() == b"program"


def test_programs_of_a_copied_project_and_damaged_ones_are_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.pb", "two.pb"):
        (as_new_process(monkeypatch) / name).write_bytes(name.encode())
        share_programs()
    first, second = (next(folder.glob(f"*/*-{name}.pb")) for name in ("one", "two"))
    first.write_bytes(b"cut off")
    shared_at_once = second.with_name(f"{hashlib.sha256(b'other').hexdigest()[:32]}-two.pb")
    shared_at_once.write_bytes(b"other")
    assert [path.name for path in as_new_process(monkeypatch).iterdir()] == ["two.pb"]
    assert not first.exists()
    assert len(programs(folder)) == 1

    copied = folder.with_name("copy")
    shutil.copytree(folder, copied)
    monkeypatch.setattr(compiled_programs, "PROGRAM_FOLDER", copied)
    assert [path.name for path in as_new_process(monkeypatch).iterdir()] == []


def test_the_oldest_programs_go_first_and_what_nothing_uses_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_programs, "LARGEST_FOLDER", 10)
    for number, name in enumerate(("one.pb", "two.pb", "six.pb")):
        own = as_new_process(monkeypatch)
        (own / name).write_bytes(b"12345")
        os.utime(own / name, (number, number))
        share_programs()
    assert sorted(name.partition("-")[2] for name in programs(folder)) == ["six.pb", "two.pb"]
    killed = own
    unused = folder / "other versions"
    unused.mkdir()
    for path in (killed, unused):
        os.utime(path, (0, 0))
    as_new_process(monkeypatch)
    assert (killed.exists(), unused.exists()) == (False, False)


def test_nothing_is_kept_where_it_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.mkdir()
    folder.write_text("not a folder")
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    with kept_programs(1, 1, False):
        assert "TF_XLA_FLAGS" not in os.environ
    folder.unlink()
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with kept_programs(1, 1, False):  # others could put machine code there
        assert "TF_XLA_FLAGS" not in os.environ
    folder.chmod(0o700)
    monkeypatch.setenv("TF_XLA_FLAGS", "a file of flags")
    with kept_programs(1, 1, False):
        assert os.environ["TF_XLA_FLAGS"] == "a file of flags"
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr(compiled_programs, "NEEDED_SPACE", 2**60)
    with kept_programs(1, 1, False):
        assert "TF_XLA_FLAGS" not in os.environ
    share_programs()
    assert programs(folder) == {}
