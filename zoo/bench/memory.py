"""How much memory a model takes, seen in a process of its own: in one with others they would share."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from zoo.errors import ModelError
from zoo.runtime.feeds import Feeds
from zoo.runtime.memory import process_memory
from zoo.runtime.session import Provider, open_session
from zoo.runtime.settings import SessionSettings

_RUNS = 3


def memory_mb(model: Path, feeds: Feeds, *, provider: Provider, settings: SessionSettings) -> float | None:
    """By how many megabytes the resident memory of a process grows at most that opens the model and runs it.

    That of the processor, not that of a GPU. None where the system does not tell. Raises ModelError where the process
    fails.
    """
    if process_memory() is None:
        return None
    content = io.BytesIO()
    np.savez(content, **feeds)  # type: ignore[arg-type]  # its stub takes a name for an option of savez
    command = [sys.executable, "-m", __name__, str(model), provider, json.dumps(settings.to_json())]
    ended = subprocess.run(command, input=content.getvalue(), capture_output=True, check=False)
    if ended.returncode:
        reason = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ModelError(f"memory of {model} cannot be measured ({' '.join(reason):.200}); is there enough of it?")
    return float(ended.stdout)


def _main(model: str, provider: Provider, settings: str) -> None:
    """What the process of its own does: tells the growth on stdout."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as content:
        feeds = dict(content)
    before = process_memory()
    session = open_session(Path(model), device=provider, settings=SessionSettings.from_json(json.loads(settings)))
    for _ in range(_RUNS):
        session.run(None, feeds)
    peak = process_memory("VmHWM")
    assert before is not None
    assert peak is not None
    sys.stdout.write(str((peak - before) / 1.024e6))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3])  # type: ignore[arg-type]  # one of the providers
