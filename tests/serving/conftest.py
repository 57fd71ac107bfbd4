"""Real server processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, Start


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which end with the test."""
    servers: list[Server] = []

    def run(*arguments: str | Path) -> Server:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo_cli", "serve", *map(str, arguments), "--port", "0", "--json", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        told = json.loads(line)
        servers.append(Server(told["url"], process, told.get("grpc")))
        return servers[-1]

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()
