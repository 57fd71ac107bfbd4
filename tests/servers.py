"""A running server, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen


@dataclass(frozen=True, slots=True)
class Server:
    """A running `zoo serve`."""

    url: str
    process: subprocess.Popen[str]
    grpc: str | None = None
    """Where it speaks gRPC."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> Any:
        """What it answers to GET, as JSON; also of errors."""
        return self.ask("GET", path)[1]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        request = Request(
            self.url + path, body, {name.replace("_", "-"): value for name, value in headers.items()}, method=method
        )
        try:
            with urlopen(request) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())

    def ask_until_gone(self, path: str, body: bytes) -> tuple[int, list[str]]:
        """Posts one request after the other until nobody listens any more. Gives how many were answered with 200, and
        the errors of those that were not answered."""
        count, errors = 0, []
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while True:
            try:
                connection.connect()
            except ConnectionRefusedError:  # nothing was asked
                return count, errors
            try:
                closes = False
                while not closes:
                    connection.request("POST", path, body)
                    with connection.getresponse() as answer:
                        answer.read()
                        closes = answer.headers.get("connection") == "close"
                        count += answer.status == 200
            except OSError as error:
                errors.append(repr(error))
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Ends it, and gives what it wrote on standard error. It must end well."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return errors


@contextmanager
def running(*arguments: str | Path) -> Iterator[Server]:
    """A `zoo serve` on a free port, which is gone behind it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", "serve", *map(str, arguments), "--port", "0", "--json", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        told = json.loads(line)
        yield Server(told["url"], process, told.get("grpc"))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


Start = Callable[..., Server]
