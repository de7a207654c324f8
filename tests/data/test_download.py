"""Downloads from a real HTTP server that misbehaves."""

import dataclasses
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mnist_files import Mirror, serving, tiny, write, zipped

from experiments.data import download
from experiments.data.download import download_files
from experiments.data.image_files import IDX_FILES

ALL = sorted(f"{name}.gz" for name in IDX_FILES.values())
FIRST = "train-images-idx3-ubyte.gz"


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    with serving() as first, serving() as second:
        yield [first, second]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "project" / "data" / "mnist"


def fetch(folder: Path, *mirrors: Mirror) -> list[str]:
    return download_files(tiny(), folder, [mirror.url for mirror in mirrors])


def held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_each_file_is_downloaded_once_and_announced(
    folder: Path, mirrors: list[Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(folder, *mirrors) == []
    assert held(folder) == ALL
    assert {name: (folder / name).read_bytes() for name in ALL} == mirrors[0].files
    assert capsys.readouterr().err.splitlines() == [
        f"Downloading {mirrors[0].url}/{name}.gz (0.0 MB) to {folder}" for name in IDX_FILES.values()
    ]
    assert fetch(folder, *mirrors) == []
    assert mirrors[0].requests == [(f"{name}.gz", None) for name in IDX_FILES.values()]
    assert mirrors[1].requests == []
    assert capsys.readouterr().err == ""


def test_interrupted_download_continues_at_the_next_mirror(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].break_after = 20
    assert fetch(folder, *mirrors) == []
    assert mirrors[0].requests == [(FIRST, None)]
    assert mirrors[1].requests[0] == (FIRST, "bytes=20-")
    assert held(folder) == ALL


def test_partial_file_is_never_used_and_is_resumed(
    folder: Path, mirrors: list[Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    mirrors[0].break_after = 20
    size = len(zipped("train-images"))
    assert fetch(folder, mirrors[0]) == [f"{mirrors[0].url}/{FIRST}: connection lost after 20 of {size} bytes"]
    assert held(folder) == [f"{FIRST}.part"]
    mirrors[0].break_after = None
    capsys.readouterr()
    assert fetch(folder, mirrors[0]) == []
    assert mirrors[0].requests[1] == (FIRST, "bytes=20-")
    assert f"{FIRST} (0.0 MB, resumed) to" in capsys.readouterr().err
    assert held(folder) == ALL


def test_download_restarts_when_the_server_does_not_support_ranges(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].break_after, mirrors[0].ranges = 20, False
    assert len(fetch(folder, mirrors[0])) == 1
    mirrors[0].break_after = None
    assert fetch(folder, mirrors[0]) == []
    assert held(folder) == ALL


@pytest.mark.parametrize("rest", [b"of another copy", zipped("train-images"), bytes(10_000)])
def test_partial_file_that_cannot_be_completed_is_discarded(folder: Path, mirrors: list[Mirror], rest: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.part").write_bytes(rest)
    assert fetch(folder, mirrors[0]) == []
    assert mirrors[0].requests[:2] == [(FIRST, f"bytes={len(rest)}-"), (FIRST, None)]
    assert held(folder) == ALL


@pytest.mark.parametrize(
    "content", [b"<html>Please log in</html>", zipped("test-images"), zipped("train-images")[:-9]], ids=repr
)
def test_wrong_content_is_rejected_and_the_next_mirror_tried(
    folder: Path, mirrors: list[Mirror], content: bytes
) -> None:
    mirrors[0].files[FIRST] = content
    assert fetch(folder, *mirrors) == []
    assert held(folder) == ALL
    # The mirror that failed comes last for the other files.
    assert [name for name, _ in mirrors[1].requests] == [f"{name}.gz" for name in IDX_FILES.values()]


def test_wrong_content_leaves_nothing_behind(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].files[FIRST] = zipped("test-images")
    (failure,) = fetch(folder, mirrors[0])
    assert failure.startswith(f"{mirrors[0].url}/{FIRST}: expected images (12, 4, 3) (data.train_examples and data.sha")
    assert not folder.parent.exists()


def test_endless_content_is_cut_off(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].files[FIRST] = bytes(10 * 2**20)
    (failure,) = fetch(folder, mirrors[0])
    assert failure.startswith(f"{mirrors[0].url}/{FIRST}: more than the 65681 bytes")
    assert not folder.parent.exists() or sum(f.stat().st_size for f in folder.iterdir()) < 2**18


def test_only_missing_files_are_downloaded(folder: Path, mirrors: list[Mirror]) -> None:
    (write(folder) / "t10k-labels-idx1-ubyte.gz").unlink()
    assert fetch(folder, mirrors[0]) == []
    assert mirrors[0].requests == [("t10k-labels-idx1-ubyte.gz", None)]


def test_reports_mirrors_without_the_file_or_out_of_reach(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].files = {}
    closed = "http://127.0.0.1:1"
    assert download_files(tiny(), folder, [mirrors[0].url, closed]) == [
        f"{mirrors[0].url}/{FIRST}: HTTP Error 404: Not Found",
        f"{closed}/{FIRST}: [Errno 111] Connection refused",
    ]
    assert not folder.parent.exists()


def test_gives_up_a_mirror_that_does_not_answer(
    folder: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MIRROR_TIMEOUT", 0.5)
    mirrors[0].stall_after = 10
    assert fetch(folder, *mirrors) == []
    assert [name for name, _ in mirrors[0].requests] == [FIRST]  # else it was waited for
    # A server that takes the connection and says nothing at all.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        failures = download_files(tiny(), folder.with_name("other"), [url])
    assert failures == [f"{url}/{FIRST}: no answer within 0.5 s"]


def test_reports_a_folder_that_cannot_be_created(folder: Path, mirrors: list[Mirror]) -> None:
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file where the folder should be")
    assert fetch(folder, mirrors[0]) == [f"[Errno 20] Not a directory: '{folder}'"]


DOWNLOAD = """
import json, sys
from pathlib import Path
from experiments.config.data_schema import ImageFileData
from experiments.data.download import download_files

from pydantic import TypeAdapter
config, folder, mirror = json.loads(sys.argv[1])
print(download_files(TypeAdapter(ImageFileData).validate_python(config, strict=False), Path(folder), [mirror]))
"""


def start_download(folder: Path, mirror: Mirror) -> subprocess.Popen[str]:
    arguments = json.dumps([dataclasses.asdict(tiny()), str(folder), mirror.url])
    return subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_concurrent_processes_download_each_file_once(folder: Path, mirrors: list[Mirror]) -> None:
    processes = [start_download(folder, mirrors[0]) for _ in range(3)]
    assert [process.communicate(timeout=30)[0] for process in processes] == ["[]\n"] * 3
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(name for name, _ in mirrors[0].requests) == ALL
    assert held(folder) == ALL


def test_leftovers_of_a_killed_download_are_not_used(folder: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].stall_after = 20
    process = start_download(folder, mirrors[0])
    part = folder / f"{FIRST}.part"
    deadline = time.monotonic() + 20
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=10)
    assert held(folder) == [part.name]
    mirrors[0].stall_after = None
    mirrors[0].released.set()
    assert fetch(folder, mirrors[0]) == []
    assert held(folder) == ALL
