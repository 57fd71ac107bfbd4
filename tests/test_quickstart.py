"""`zoo quickstart` keeps the promises of transfer learning, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Any attempt to reach the network ends the process.
OFFLINE = """
import socket, sys
def refuse(*arguments, **options): raise AssertionError("reached for the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from zoo_cli.app import main
sys.argv = ["zoo", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "quickstart", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "ZOO_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert {"transfer_accuracy", "scratch_accuracy", "model", "seconds"} <= set(value)
    transfer, scratch = value["curves"]["transfer"], value["curves"]["scratch"]
    assert transfer["start"] > scratch["start"] + 0.5
    assert transfer["steps_to_level"] < scratch["steps_to_level"]
    assert transfer["asymptote"] > scratch["asymptote"]
    assert value["transfer_accuracy"] > 0.9
    assert value["prediction"]["label"] == "7"
    folder = tmp_path / "zoo-quickstart"
    assert {path.name for path in folder.iterdir()} == {"transfer", "scratch", "digits.onnx", "curves.svg"}
    assert "<svg" in (folder / "curves.svg").read_text()
