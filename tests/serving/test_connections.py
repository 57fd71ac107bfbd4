"""What a client can do to a server."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from servers import Server, Start

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
TENSORS = json.dumps(
    {"inputs": [{"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} for name in ("a", "b")]}
).encode()
INFER = b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(TENSORS), TENSORS)


def _connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def _until_closed(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_many_requests_in_one_packet_are_answered_in_order(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model)
    last = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with closing(_connect(server)) as client:
        client.sendall((LIVE + INFER) * 200 + last)
        answers = _until_closed(client)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert len(bodies) == 401
    assert bodies[0] == b'{"live":true}'
    assert json.loads(bodies[399])["outputs"][1]["data"] == [1.0, 4.0, 9.0]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
    ],
)
def test_bad_http_is_told_why_and_ends_the_connection(
    start: Start, tensor_model: Path, request_: bytes, status: bytes
) -> None:
    with closing(_connect(start(tensor_model))) as client:
        client.sendall(request_)
        answer = _until_closed(client)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_slow_and_silent_clients_are_let_go(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--receive-seconds", "1")
    clients = [_connect(server) for _ in range(50)]
    for client in clients[:25]:
        client.sendall(INFER[:60])
    began = time.monotonic()
    assert server.get("/v2/health/ready")["ready"]
    answers = [_until_closed(client) for client in clients]
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers[:25])
    assert set(answers[25:]) == {b""}
    assert time.monotonic() - began < 10
    for client in clients:
        client.close()


def test_a_thousand_clients_that_leave_in_the_middle_cost_nothing(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model)
    server.ask("POST", "/v2/models/plain/infer", TENSORS)
    before = _memory(server)
    for _ in range(1000):
        client = _connect(server)
        client.sendall(INFER[:-20].replace(b"Content-Length: ", b"Content-Length: 1") + bytes(10_000))
        client.close()
    deadline = time.monotonic() + 20
    while "zoo_connections 1.0" not in _metrics(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "zoo_connections 1.0" in _metrics(server)
    assert _memory(server) - before < 20e6
    assert server.ask("POST", "/v2/models/plain/infer", TENSORS)[0] == 200


def test_more_clients_than_allowed_are_told_so(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--max-connections", "2")
    clients = [_connect(server) for _ in range(2)]
    for client in clients:
        client.sendall(LIVE)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    with closing(_connect(server)) as third:
        assert _until_closed(third).startswith(b"HTTP/1.1 503")
    for client in clients:
        client.close()


def test_nothing_is_lost_on_sigterm_under_load(start: Start, tensor_model: Path) -> None:
    """Clients with a connection each: whatever was sent is answered, also in the seconds before the end."""
    server = start(tensor_model, "--drain-delay", "0.5")
    lost: list[str] = []
    counts: list[int] = []
    states: list[int] = []

    def ask() -> None:
        count, errors = server.ask_until_gone("/v2/models/plain/infer", TENSORS)
        counts.append(count)
        lost.extend(errors)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    while server.process.poll() is None:
        try:
            states.append(server.ask("GET", "/v2/health/ready")[0])
        except OSError:
            break
    for thread in threads:
        thread.join(timeout=60)
    assert (lost, server.process.wait(timeout=60)) == ([], 0)
    assert len(counts) == 8
    assert sum(counts) > 100
    assert 503 in states


def test_keys_and_request_ids(start: Start, tensor_model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    server = start(tensor_model, "--api-keys", keys, "--access-log")
    assert server.ask("GET", "/v2/health/live")[0] == 200
    assert server.ask("GET", "/v2/models/plain")[0] == 401
    assert server.ask("GET", "/v2/models/plain", Authorization="Bearer third")[0] == 401
    assert server.ask("POST", "/v2/models/plain/infer", TENSORS, X_API_Key="wrong")[0] == 401
    assert server.ask("GET", "/v2/models/plain", Authorization="Bearer second", X_Request_Id="mine")[0] == 200
    assert server.ask("POST", "/v2/models/plain/infer", TENSORS, X_API_Key="first")[0] == 200
    lines = [json.loads(line) for line in server.stop().splitlines()]
    assert [line["status"] for line in lines] == [200, 401, 401, 401, 200, 200]
    assert lines[4]["id"] == "mine"
    assert len({line["id"] for line in lines}) == 6


def _memory(server: Server) -> float:
    """Bytes in use."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * float(status.partition("VmRSS:")[2].split()[0])


def _metrics(server: Server) -> str:
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def test_settings_from_a_file_and_from_the_environment(
    start: Start, tensor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo_process: Callable[..., Any]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f'models = ["{tensor_model}"]\naccess-log = true\nmax-body = 1\n')
    monkeypatch.setenv("ZOO_SERVE_MAX_BODY", "2")
    server = start("--config", config)
    large = b"POST /v2/models/plain/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    with closing(_connect(server)) as client:
        client.sendall(large % (3 * 2**20))
        assert b"at most 2,097,152 bytes" in _until_closed(client)
    assert json.loads(server.stop())["status"] == 413
    config.write_text("prot = 80\n")
    done = zoo_process("serve", tensor_model, "--config", config)
    assert done.returncode == 2
    assert "unknown option: 'prot'" in done.stderr
    config.write_text(f'models = ["{tensor_model}"]\naccess-l')  # a disk was full
    done = zoo_process("serve", "--config", config)
    assert done.returncode == 2
    assert "give a TOML file" in done.stderr
