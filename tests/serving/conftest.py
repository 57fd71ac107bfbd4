"""Real server processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import Server, Start, running


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which end with the test."""
    with ExitStack() as servers:

        def run(*arguments: str | Path) -> Server:
            return servers.enter_context(running(*arguments))

        yield run
