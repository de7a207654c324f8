"""Helpers of the data tests: the shipped configs, a tiny dataset in MNIST's format, and a server that misbehaves."""

import contextlib
import gzip
import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import PROJECT
from pydantic import TypeAdapter

from experiments.config.data_schema import DataConfig, DigitsData, ImageFileData, LinearData
from experiments.data.image_files import IDX_FILES, NPZ_KEYS
from experiments.errors import DataError

CONF = PROJECT / "conf" / "data"
SCHEMA = {"mnist": ImageFileData, "fashion_mnist": ImageFileData, "digits": DigitsData, "linear": LinearData}

TRAIN, TEST = 12, 5
ARRAYS = {
    "train-images": np.arange(TRAIN * 4 * 3, dtype=np.uint8).reshape(TRAIN, 4, 3),
    "train-labels": np.arange(TRAIN, dtype=np.uint8) % 3,
    "test-images": np.arange(150, 150 + TEST * 4 * 3, dtype=np.uint8).reshape(TEST, 4, 3),
    "test-labels": np.arange(TEST, dtype=np.uint8) % 3,
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def zipped(part: str) -> bytes:
    return gzip.compress(idx(ARRAYS[part]), mtime=0)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


CHECKSUMS = {part: sha256(idx(array)) for part, array in ARRAYS.items()}


def shipped(name: str, **changes: Any) -> DataConfig:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes
    return TypeAdapter(SCHEMA[name]).validate_json(json.dumps(values))  # type: ignore[return-value]


def tiny(name: str = "mnist", **changes: Any) -> DataConfig:
    facts: dict[str, Any] = {
        "validation": 0,
        "shape": [4, 3],
        "classes": 3,
        "class_names": ["a", "b", "c"],
        "train_examples": TRAIN,
        "test_examples": TEST,
        "checksums": CHECKSUMS,
    }
    return shipped(name, **facts | changes)


def write(folder: Path, packing: str = "gzip", **changed: np.ndarray) -> Path:
    """The tiny dataset; `train_images=...` and so on replaces an array."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = ARRAYS | {part.replace("_", "-"): array for part, array in changed.items()}
    if packing == "npz":
        np.savez(folder / "mnist.npz", **{NPZ_KEYS[part]: array for part, array in arrays.items()})
        return folder
    for part, array in arrays.items():
        name = IDX_FILES[part].replace("-idx", ".idx") if packing == "dotted" else IDX_FILES[part]
        if packing == "gzip":
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def refusal(call: Callable[[], object]) -> str:
    """The message of the DataError that the call raises."""
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def damage(folder: Path, part: str, change: Callable[[bytes], bytes], suffix: str = ".gz") -> Path:
    file = folder / (IDX_FILES[part] + suffix)
    file.write_bytes(change(file.read_bytes()))
    return file


class Mirror(http.server.ThreadingHTTPServer):
    """The tiny dataset over HTTP, with the faults of real servers.

    Attributes:
        files: content by name; a missing one is answered with 404.
        ranges: whether Range is honoured.
        break_after: the first answer for each file ends after so many bytes of its body.
        stall_after: every answer for a file stops there, the connection open.
        requests: (name, Range header) of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.files = {f"{name}.gz": zipped(part) for part, name in IDX_FILES.items()}
        self.ranges = True
        self.break_after: int | None = None
        self.stall_after: int | None = None
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class MirrorHandler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name, asked = self.path.removeprefix("/"), self.headers["Range"]
        seen = name in [earlier for earlier, _ in self.server.requests]
        self.server.requests.append((name, asked))
        content = self.server.files.get(name)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.server.stall_after is not None:
            self.wfile.write(content[start : self.server.stall_after])
            self.wfile.flush()
            self.server.released.wait(30)
        elif self.server.break_after is not None and not seen:
            self.wfile.write(content[start : start + self.server.break_after])
        else:
            self.wfile.write(content[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    """A mirror that answers while the block runs."""
    with Mirror() as mirror:
        threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield mirror
        finally:
            mirror.released.set()
            mirror.shutdown()
