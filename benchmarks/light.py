"""What the command line costs before it does anything: processor time, and the memory of a server at rest.

    python benchmarks/light.py [MODEL.onnx]

Linux only. The best of several runs, so that a busy machine counts little.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import report

_PLUGINS = 200
_MADE = """
from zoo.hookspecs import hookimpl
from zoo.specs import BackboneSpec, ImageInput, StageSpec

@hookimpl
def zoo_backbones():
    stages = (StageSpec(channels=32, stride=2), StageSpec(channels=64, stride=4))
    facts = {"num_features": 64, "params": 19_488, "macs": 1_400_832, "stages": stages, "weights": ()}
    size = ImageInput(height=32, width=32)
    return [BackboneSpec(name="net", family="net", build=lambda: None, split=lambda module: None, input=size, **facts)]
"""
COMMANDS = (("--help",), ("finetune", "--help"), ("list", "backbones"), ("plugins", "list"))


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [_cost(words, arguments.runs) for words in COMMANDS]
    with tempfile.TemporaryDirectory() as site:
        _make_plugins(Path(site), _PLUGINS)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (site, os.environ.get("PYTHONPATH"))))
        rows += [_cost(words, arguments.runs) | {"plugins": _PLUGINS} for words in (("--help",), ("plugins", "list"))]
    rows = [{"plugins": "Zoo's", **row} for row in rows]
    if arguments.model is not None:
        rows.append(min((_server(arguments.model) for _ in range(arguments.runs)), key=lambda row: row["wall s"]))
    report(rows, arguments.out)


def _make_plugins(site: Path, count: int) -> None:
    """Installed distributions, each with one plugin of one backbone."""
    for number in range(count):
        info = site / f"zoo_made{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zoo_made{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo]\nmade{number} = zoo_made{number}\n")
        (site / f"zoo_made{number}.py").write_text(_MADE)


def _cost(words: tuple[str, ...], runs: int) -> dict[str, Any]:
    rows = []
    for _ in range(runs):
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "zoo_cli", *words], stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # waited for already
        rows.append(
            {
                "command": f"zoo {' '.join(words)}",
                "CPU s": usage.ru_utime + usage.ru_stime,
                "wall s": time.perf_counter() - began,
                "memory MiB": usage.ru_maxrss // 1024,
            }
        )
    return min(rows, key=lambda row: row["CPU s"])


def _server(model: Path) -> dict[str, Any]:
    """From the start of the process to the first request it could answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "zoo_cli", "serve", str(model), "--port", "0", "--json", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wall = time.perf_counter() - began
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory = next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))
        clock = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(clock[11]) + int(clock[12])) / os.sysconf("SC_CLK_TCK")
        process.send_signal(signal.SIGINT)
    return {"command": f"zoo serve {model.name}, until ready", "CPU s": cpu, "wall s": wall, "memory MiB": memory}


if __name__ == "__main__":
    main()
