"""Download of datasets from mirrors: each file whole and verified or not at all, also with several processes."""

import contextlib
import fcntl
import http.client
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.config.data_schema import ImageFileData
from experiments.data.image_files import (
    IDX_FILES,
    FileContentError,
    find_idx_files,
    largest_packed_size,
    read_idx,
)

MIRRORS: Mapping[str, Sequence[str]] = {
    "mnist": ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
    "kmnist": ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz",),
    "emnist": ("https://biometrics.nist.gov/cs_links/EMNIST",),
}
MIRROR_TIMEOUT = 10.0  # seconds to wait for an answer, and then for the next bytes


@dataclass(frozen=True)
class WantedFile:
    """A file to download."""

    name: str  # in the folder, and at the end of its URL
    largest: int  # bytes that it can have
    verify: Callable[[Path], object]  # raises a FileContentError if the file in this place is not as published
    is_there: Callable[[], bool]  # in the folder


def download_files(config: ImageFileData, folder: Path, mirrors: Sequence[str]) -> list[str]:
    """Download the gzip files that a folder lacks, as `download_wanted` does."""
    return download_wanted(
        [
            WantedFile(
                f"{name}.gz",
                largest_packed_size(config, part),
                partial(read_idx, config=config, part=part),
                partial(lambda part: part in find_idx_files(folder), part),
            )
            for part, name in IDX_FILES.items()
        ],
        folder,
        mirrors,
    )


def download_wanted(wanted: Sequence[WantedFile], folder: Path, mirrors: Sequence[str]) -> list[str]:
    """Download the files that a folder lacks from the best mirror that has them, locking out other processes.

    Returns:
        An empty list if the folder is now complete, else `URL: reason` for each attempt that failed.
    """
    mirrors, failures = list(mirrors), []
    try:
        with _locked_folder(folder):
            for file in wanted:
                if file.is_there():  # from earlier, or from another process
                    continue
                for mirror in tuple(mirrors):
                    url = f"{mirror}/{file.name}"
                    try:
                        _fetch_file(url, folder / file.name, file)
                        break
                    except (OSError, http.client.HTTPException, FileContentError) as error:
                        failures.append(f"{url}: {_failure_reason(error)}")
                        mirrors.remove(mirror)  # try it last for the other files
                        mirrors.append(mirror)
                else:
                    return failures
    except OSError as error:
        return [str(error)]
    return []


def _fetch_file(url: str, target: Path, wanted: WantedFile) -> None:
    """Download one file beside its target, resuming an earlier attempt, verify it, and move it into place."""
    unverified = target.with_name(f"{target.name}.part")
    start = unverified.stat().st_size if unverified.exists() else 0
    try:
        response = _open_url(urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {}))
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        unverified.unlink()
        return _fetch_file(url, target, wanted)
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.headers["Content-Length"]
        size = start + int(length) if length else None
        megabytes = f"{size / 1e6:.1f} MB" if size else "size unknown"
        print(f"Downloading {url} ({megabytes}{', resumed' if resumed else ''}) to {target.parent}", file=sys.stderr)
        with unverified.open("ab" if resumed else "wb") as file:
            while chunk := response.read(2**16):
                if file.write(chunk) and file.tell() > wanted.largest:
                    raise ConnectionError(f"more than the {wanted.largest} bytes it can have")
            received = file.tell()
    if size is not None and received != size:
        raise ConnectionError(f"connection lost after {received} of {size} bytes")
    try:
        wanted.verify(unverified)
    except FileContentError:
        unverified.unlink()
        if resumed:  # its first part may come from another copy
            return _fetch_file(url, target, wanted)
        raise
    unverified.replace(target)
    return None


def _open_url(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Open a URL within MIRROR_TIMEOUT: urlopen's own timeout restarts for each address of a host, and excludes DNS."""
    answer: Future[http.client.HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(request, timeout=MIRROR_TIMEOUT))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(MIRROR_TIMEOUT)


def _failure_reason(error: Exception) -> str:
    if isinstance(error, FileContentError):
        return error.finding
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return f"no answer within {MIRROR_TIMEOUT:g} s"
    return str(error.reason if type(error) is urllib.error.URLError else error)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, created if needed, against other processes; leave no empty folders behind."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder.mkdir(parents=True, exist_ok=True)  # a process that failed before may have removed it
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
            folder.parent.rmdir()
        os.close(handle)
