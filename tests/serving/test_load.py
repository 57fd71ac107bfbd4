"""`zoo load` against real servers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from servers import Start

from zoo.client.address import parse_address
from zoo.load.generator import Generator, Tally

Zoo = Callable[..., "subprocess.CompletedProcess[str]"]


class _Slow(BaseHTTPRequestHandler):
    """Answers one request at a time; the tenth takes half a second."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    asked = itertools.count(1)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            number = next(self.asked)
            time.sleep(0.5 if number == 10 else 0.0)
        status = 429 if number == 20 else 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if number == 30:
            self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self) -> None:
        """As a server of the protocol that is no `zoo serve`."""
        body = {"/v2/health/ready": b"{}", "/models": b'["plain"]'}.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    """A server that stalls once."""
    _Slow.asked = itertools.count(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _generate(url: str, *, connections: int, rate: float | None, timeout: float = 10.0) -> Tally:
    async def run() -> Tally:
        message = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        generator = Generator(
            parse_address(url), itertools.repeat(message), connections=connections, rate=rate, timeout=timeout
        )
        generator.tally.began = 0.0
        generator.start()
        await asyncio.sleep(1.0)
        await generator.stop()
        return generator.tally

    return asyncio.run(run())


def test_at_a_rate_the_wait_of_a_stall_is_counted_for_all_that_were_due(slow: str) -> None:
    """A hundred are due in the second; half of them during the stall, which they wait for 0.25 s on average."""
    tally = _generate(slow, connections=1, rate=100)
    assert len(tally.seconds) + tally.failures["429"] == pytest.approx(100, abs=3)
    assert dict(tally.failures) == {"429": 1}
    assert sum(seconds > 0.05 for seconds in tally.seconds) == pytest.approx(46, abs=8)
    assert sum(tally.seconds) == pytest.approx(50 * 0.25, rel=0.3)


def test_in_a_closed_loop_only_who_stalled_knows(slow: str) -> None:
    tally = _generate(slow, connections=1, rate=None)
    assert sum(seconds > 0.3 for seconds in tally.seconds) == 1
    assert len(tally.seconds) > 50
    assert dict(tally.failures) == {"429": 1}  # who closes behind an answer has answered


def test_what_is_not_answered_in_time_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tally = _generate(f"127.0.0.1:{listener.getsockname()[1]}", connections=3, rate=None, timeout=0.1)
    assert (len(tally.seconds), dict(tally.failures)) == (0, {"unanswered": 3})


def test_tensors_in_closed_loops(start: Start, zoo: Zoo, tensor_model: Path) -> None:
    done = zoo("load", start(tensor_model).url, "--connections", "1,4", "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)
    assert (result["model"], result["rate"], result["interrupted"]) == ("plain", None, False)
    assert [row["connections"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert row["answered"] == row["requests"] > 20
        assert row["per_s"] == pytest.approx(row["answered"] / 0.5, rel=0.1)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["failures"] == {}
        assert row["generator_share"] > 0


def test_images_at_a_rate(start: Start, zoo: Zoo, model: Path, tensor_model: Path, dataset: Path) -> None:
    url = start(model, tensor_model).url
    image = min((dataset / "test").rglob("*.jpg"))
    measured = ("--connections", "2", "--seconds", "0.5", "--rate", "40", "--json")
    done = zoo("load", url, "--model", "shapes", "--data", dataset, "--data", image, *measured)
    assert done.returncode == 0, done.stdout
    (row,) = json.loads(done.stdout)["rows"]
    assert row["requests"] == row["answered"] == pytest.approx(20, abs=2)
    stats = json.loads(zoo("load", url, "--model", "shapes", *measured).stdout)  # pixels, made up
    assert stats["rows"][0]["failures"] == {}


def test_overload_is_told_apart(start: Start, zoo: Zoo, model: Path, dataset: Path) -> None:
    url = start(model, "--max-queue", "1").url
    done = zoo("load", url, "--data", dataset, "--connections", "16", "--seconds", "0.5", "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["failures"]["429"] == row["requests"] - row["answered"] > 0
    assert row["refused_share"] == pytest.approx(row["failures"]["429"] / row["requests"])


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--connections", "0"), 2, "--connections: '0'; give whole numbers"),
        (("--model", "nothing"), 11, "404"),
        (("--data", "nowhere"), 3, "no such data set: nowhere"),
        ((), 2, "which model?"),
    ],
)
def test_what_makes_no_sense(
    start: Start,
    zoo: Zoo,
    model: Path,
    tensor_model: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    words: str,
) -> None:
    done = zoo("load", start(model, tensor_model).url, *arguments)
    assert done.returncode == exit_code
    assert words in done.stderr


def test_a_server_that_does_not_say_what_it_has(zoo: Zoo, slow: str) -> None:
    done = zoo("load", slow)
    assert done.returncode == 2
    assert f"which model? {slow} does not say what it has; give one with --model" in done.stderr
    done = zoo("load", "127.0.0.1:1")
    assert done.returncode == 11
    assert "server cannot be reached" in done.stderr


def test_ctrl_c_shows_what_was_measured(start: Start, tensor_model: Path, cache: Path) -> None:
    url = start(tensor_model).url
    words = [sys.executable, "-m", "zoo_cli", "load", url, "--connections", "2,2", "--seconds", "30", "--json"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ZOO_CACHE": str(cache)}
    )
    time.sleep(4)  # more than it takes to start and to warm up
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    result = json.loads(out)
    assert result["interrupted"]
    (row,) = result["rows"]
    assert row["answered"] > 20
