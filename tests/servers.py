"""A running server, for tests."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Ends it, and gives what it wrote on standard error. It must end well."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return errors


Start = Callable[..., Server]
