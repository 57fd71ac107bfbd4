"""More is asked than can be answered: nearly as much is answered as ever, and the rest is told so at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from servers import Server, Start


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that takes longer to decode than its request to read."""
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    Image.fromarray(pixels).resize((1600, 1200)).save(path)
    return path


@pytest.mark.slow
def test_at_four_times_of_what_it_can_do(start: Start, model: Path, photo: Path) -> None:
    server = start(model, "--max-queue", "64")
    peak = max(row["per_s"] for row in _rows(_load(server, photo, "--connections", "8,8,8", "--seconds", "2")))
    rate = f"{4 * peak:.0f}"
    load = _load(server, photo, "--connections", "128", "--seconds", "8", "--rate", rate)
    with ThreadPoolExecutor(8) as pool:
        waits = [wait for found in pool.map(lambda _: _ask_until_over(server, photo, load), range(8)) for wait in found]
    [row] = _rows(load)
    assert row["per_s"] > 0.6 * peak
    assert set(row["failures"]) == {"429"}
    assert row["refused_share"] > 0.5
    assert row["refused_p99_ms"] < 500
    refused = [int(wait) for wait in waits if wait is not None]
    assert len(refused) > 5
    assert min(refused) >= 1


def _load(server: Server, image: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoo_cli", "load", server.url, "--data", str(image), *words, "--json", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _rows(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=120)
    rows: list[dict[str, Any]] = json.loads(out)["rows"]
    return rows


def _ask_until_over(server: Server, image: Path, load: subprocess.Popen[str]) -> list[str | None]:
    """Retry-After of each refusal, None for each answer."""
    waits = list[str | None]()
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as client:
        while load.poll() is None:
            client.request("POST", "/predict", image.read_bytes())
            with client.getresponse() as answer:
                answer.read()
                assert answer.status in (200, 429)
                waits.append(answer.headers["retry-after"] if answer.status == 429 else None)
            time.sleep(0.1)
    return waits
