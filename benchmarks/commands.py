"""Running the command line in a process of its own, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def finetune(words: Sequence[str], cache: Path, *, out: Path | None = None) -> tuple[dict[str, Any], float]:
    """The result of `zoo finetune` on the CPU and the seconds the whole command took, its caches in `cache`.

    The run is kept where `out` says.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = out or Path(folder) / "run"
        command = [sys.executable, "-m", "zoo_cli", "finetune", *words, "--device", "cpu", "--out", str(run)]
        print("$ zoo", *command[3:], file=sys.stderr)
        environ = {**os.environ, "ZOO_CACHE": str(cache)}
        began = time.perf_counter()
        done = subprocess.run([*command, "--json", "--quiet"], capture_output=True, text=True, env=environ)
        wall = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result, wall
