"""The disk is full: what is served goes on being served, and what is wrong is said once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from servers import Server

TENSORS = (
    b'{"inputs": [{"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},'
    b'{"name": "b", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
)
_IN_NAMESPACE = ("unshare", "--map-root-user", "--mount")
"""A disk that is mounted there is seen by nobody else, and gone with the last process."""
_MOUNT = 'mount -t tmpfs -o size=256k tmpfs "$1" && cp -r "$2" "$1/models" && shift 2 && exec "$@"'

Serve = Callable[..., tuple[Server, Path]]


@pytest.fixture
def serve(tmp_path: Path, tensor_model: Path) -> Iterator[Serve]:
    """Starts a server in a full disk's namespace, and gives the disk, too. It serves what is in `models` there."""
    place, models = tmp_path / "disk", tmp_path / "models"
    place.mkdir()
    (models / "plain" / "1").mkdir(parents=True)
    shutil.copy(tensor_model, models / "plain" / "1" / "model.onnx")
    if subprocess.run(
        [*_IN_NAMESPACE, "sh", "-c", _MOUNT, "sh", place, models, "true"], capture_output=True
    ).returncode:
        pytest.skip("disks cannot be mounted here")
    started: list[Server] = []

    def run(*options: str, errors: str = "") -> tuple[Server, Path]:
        zoo = [sys.executable, "-m", "zoo_cli", "serve", f"{place}/models", "--port", "0", "--json", *options]
        logged = ["sh", "-c", f'exec "$@" 2>"{place}/{errors}"', "sh"] if errors else []
        process = subprocess.Popen(
            [*_IN_NAMESPACE, "sh", "-c", _MOUNT, "sh", str(place), str(models), *logged, *zoo],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert process.stdout is not None
        started.append(Server(json.loads(process.stdout.readline())["url"], process))
        return started[-1], Path(f"/proc/{process.pid}/root") / place.relative_to("/")

    yield run
    for server in started:
        server.process.kill()
        server.process.communicate()


def test_requests_are_answered_whose_lines_cannot_be_written(serve: Serve) -> None:
    server, disk = serve("--access-log", errors="log")
    _ask(server, 10)
    _fill(disk)
    _ask(server, 100)
    (disk / "filler").unlink()
    _ask(server, 10)
    deadline = time.monotonic() + 10
    while (counted := _lines(disk / "log"))[1] != 120 and time.monotonic() < deadline:
        time.sleep(0.05)  # an answer is sent before its line is written
    notices, requests = counted
    assert requests == 120
    assert [error for _, error in notices] == ["No space left on device"]
    assert notices[0][0] > 50
    server.stop()


def _lines(log: Path) -> tuple[list[tuple[int, str]], int]:
    """What is said to be missing, and why; and the number of requests, with those."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    notices = [(line["missing"], line["error"]) for line in lines if "missing" in line]
    return notices, sum(line.get("status") == 200 for line in lines) + sum(count for count, _ in notices)


def test_a_version_that_is_written_in_part_is_not_served(serve: Serve, tensor_model: Path) -> None:
    server, disk = serve("--poll", "0.1")
    proto = onnx.load(tensor_model)
    proto.doc_string = "x" * 2**15
    _fill(disk, leaving=2**14)
    second = disk / "models" / "plain" / "2"
    second.mkdir()
    with pytest.raises(OSError, match="No space left"):
        onnx.save(proto, second / "model.onnx")
    time.sleep(1)
    _ask(server, 10)
    assert server.get("/v2/models/plain")["versions"] == ["1"]
    (disk / "filler").unlink()
    onnx.save(proto, second / "model.onnx")
    deadline = time.monotonic() + 20
    while server.get("/v2/models/plain")["versions"] == ["1"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.get("/v2/models/plain")["versions"] == ["1", "2"]
    errors = server.stop()
    assert errors.count("version 2 of plain is refused, it is not served") == 1
    assert errors.count("version 2 of plain is loaded") == 1


def _fill(disk: Path, *, leaving: int = 0) -> None:
    """Writes until there is no room but for so many bytes."""
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - leaving))


def _ask(server: Server, count: int) -> None:
    for _ in range(count):
        status: Any = server.ask("POST", "/v2/models/plain/infer", TENSORS)[0]
        assert status == 200
