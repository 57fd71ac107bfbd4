"""Several processes behind one port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from servers import Server, Start

from zoo.runtime.settings import SessionSettings
from zoo.runtime.tuned import Tuned, circumstances, write_tuned

TENSORS = (
    b'{"inputs": [{"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},'
    b'{"name": "b", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
)


def _children(server: Server) -> list[int]:
    """The processes that serve: Python's own helper for spawned ones never opened the port."""
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _inferences(server: Server) -> int:
    count: int = server.get("/v2/models/plain/stats")["model_stats"][0]["inference_count"]
    return count


def test_each_tells_the_counts_of_all(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--workers", "2")
    assert len(_children(server)) == 2
    for _ in range(40):
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("POST", "/v2/models/plain/infer", TENSORS)
            assert connection.getresponse().status == 200
    deadline = time.monotonic() + 10
    while {_inferences(server) for _ in range(10)} != {40} and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {_inferences(server) for _ in range(10)} == {40}
    server.stop(signal.SIGINT)


def test_one_that_is_killed_is_replaced_and_its_counts_stay(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--workers", "2")
    for _ in range(20):
        server.ask("POST", "/v2/models/plain/infer", TENSORS)
    time.sleep(2.5)  # so that its counts are told
    first, second = _children(server)
    failed: list[str] = []
    answered = [0]
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                assert server.ask("POST", "/v2/models/plain/infer", TENSORS)[0] == 200
                answered[0] += 1
            except OSError as error:  # what the killed one had in hand
                failed.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    os.kill(first, signal.SIGKILL)
    untold = answered[0]  # what it has counted since it last told
    _wait(lambda: len(_children(server)) == 2 and first not in _children(server))
    time.sleep(3)
    over.set()
    for thread in threads:
        thread.join()
    assert second in _children(server)
    assert len(failed) <= 4
    assert answered[0] > 100
    time.sleep(2.5)
    assert _inferences(server) >= 20 + answered[0] - untold
    assert "a process of the server has ended (-9); it is replaced" in server.stop()


def test_models_are_loaded_and_unloaded_in_all(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--workers", "2", "--allow-load")

    def answers() -> set[int]:
        """Each connection may reach the other process."""
        return {server.ask("POST", "/v2/models/plain/infer", TENSORS)[0] for _ in range(20)}

    assert server.ask("POST", "/v2/repository/models/plain/unload", b"{}") == (200, {})
    assert answers() == {404}
    # One that is started later leaves out what the others have unloaded.
    first, second = _children(server)
    os.kill(first, signal.SIGKILL)
    _wait(lambda: first not in _children(server) and len(_children(server)) == 2)
    os.kill(second, signal.SIGKILL)
    _wait(lambda: second not in _children(server) and len(_children(server)) == 2)
    assert answers() == {404}
    assert server.ask("POST", "/v2/repository/models/plain/load", b"{}") == (200, {})
    assert answers() == {200}
    status, answer = server.ask("POST", "/v2/repository/models/other/load", b"{}")
    assert status == 400
    assert "failed to load 'other': no such model" in answer["error"]


def test_one_that_is_killed_takes_only_its_own_requests_along(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--workers", "2")
    ports: list[int] = [0] * 16
    failures = [0] * len(ports)
    answered = [0] * len(ports)
    over = threading.Event()

    def ask(number: int) -> None:
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as client:
            while not over.is_set():
                try:
                    client.request("POST", "/v2/models/plain/infer", TENSORS)
                    with client.getresponse() as answer:
                        assert answer.status == 200
                        answer.read()
                    ports[number] = ports[number] or client.sock.getsockname()[1]
                    answered[number] += 1
                except OSError:
                    failures[number] += 1
                    client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(ports))]
    for thread in threads:
        thread.start()
    time.sleep(1)
    killed = next(child for child in _children(server) if _clients(child))
    own = _clients(killed)
    os.kill(killed, signal.SIGKILL)
    before = answered.copy()
    time.sleep(2)
    over.set()
    for thread in threads:
        thread.join()
    assert failures == [int(port in own) for port in ports]
    assert all(count > earlier for count, earlier in zip(answered, before, strict=True))
    server.stop()


def _clients(pid: int) -> set[int]:
    """The ports of those whose connections a process has."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].partition(":")[2], 16) for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in links}


def test_a_model_that_cannot_be_served_is_told_as_by_one_process(
    tmp_path: Path, zoo_process: Callable[..., Any]
) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    done = zoo_process("serve", tmp_path / "bad.onnx", "--port", "0", "--workers", "2")
    assert done.returncode == 8
    assert "bad.onnx" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_each_runs_on_its_share_of_the_processors(start: Start, tensor_model: Path) -> None:
    two = sorted(os.sched_getaffinity(0))[:2]
    server = start(tensor_model, "--workers", "2", "--cpus", f"{two[0]},{two[1]}")
    server.ask("POST", "/v2/models/plain/infer", TENSORS)
    first, second = (_processors(child) for child in _children(server))
    assert {first, second} == {str(two[0]), str(two[1])}


def test_all_threads_of_a_process_run_on_its_processors(
    start: Start, tensor_model: Path, zoo: Callable[..., Any]
) -> None:
    last = max(os.sched_getaffinity(0))
    server = start(tensor_model, "--cpus", str(last))
    server.ask("POST", "/v2/models/plain/infer", TENSORS)
    assert _processors(server.process.pid) == str(last)
    for arguments, code, message in (
        (("--cpus", f"{last}", "--workers", "2"), 2, "more processes than processors: 2 for 1"),
        (("--cpus", "3-1"), 2, "--cpus: '3-1'; give numbers of processors"),
        (("--cpus", "99999"), 6, "processors not there: 99999"),
        (("--device", "cuda:x"), 2, "--device: 'cuda:x'; did you mean 'cuda'"),
        (("--device", "cpu:1"), 2, "--device: 'cpu:1'; "),
    ):
        done = zoo("serve", tensor_model, "--port", "0", *arguments)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_what_all_of_them_remark_is_told_once(model: Path, tmp_path: Path) -> None:
    own = Path(shutil.copy(model, tmp_path / "own.onnx"))
    elsewhere = {**circumstances(own, "cpu"), "processor": "another"}
    settings = SessionSettings(threads=1)
    write_tuned(own, Tuned(settings=settings, belongs_to=elsewhere, goal="latency", batch=1, gain=1.5))
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", "serve", own, "--port", "0", "--json", "--workers", "2", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "url" in process.stdout.readline()
    process.terminate()
    assert process.communicate(timeout=60)[1].count("tuned settings not used") == 1


def _processors(pid: int) -> str:
    """Where all threads of a process may run, as the kernel writes it."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    [allowed] = {status.partition("Cpus_allowed_list:")[2].split()[0] for status in statuses}
    return allowed


def test_processes_end_with_the_one_that_started_them(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--workers", "2")
    children = _children(server)
    server.process.kill()
    server.process.wait()
    deadline = time.monotonic() + 10
    while any(_runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(child) for child in children)


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
