"""A server that is asked for several times what it can do.

    python benchmarks/overload.py model.onnx --data photos.zip

`zoo load` finds the most that `zoo serve MODEL` answers, with clients that wait for their answers, and sends so many
times as much on schedule, whatever became of earlier requests; both in turn, since what a machine can do changes within
minutes. The server has the first processor, the load the second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from reporting import report

_ZOO = (sys.executable, "-m", "zoo_cli")


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", default=[], action="append", help="send these images as files; else made-up tensors")
    parser.add_argument("--times", type=float, default=4.0, help="the most that it answers")
    parser.add_argument("--seconds", type=float, default=60.0, help="of too many requests, over all rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=512, help="that share the requests which are too many")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report([_measure(model, arguments) for model in arguments.models], arguments.out)


def _measure(model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    data = [word for source in arguments.data for word in ("--data", source)]
    most, over = list[float](), list[dict[str, Any]]()
    with _served(model) as url:

        def find_most() -> None:
            most.append(max(row["per_s"] for row in _load(url, *data, "--connections", "8,32", "--seconds", "5")))

        for _ in range(arguments.rounds):
            find_most()
            words = ("--connections", arguments.connections, "--seconds", arguments.seconds / arguments.rounds)
            over += _load(url, *data, *words, "--rate", f"{arguments.times * most[0]:.1f}")
        find_most()
    answered = mean(row["per_s"] for row in over)
    failures = {name for row in over for name in row["failures"]}
    return {
        "model": model.stem,
        "sent": "files" if data else "tensors",
        "at most, answers/s": mean(most),
        "due, requests/s": arguments.times * most[0],
        "answers/s": answered,
        "of the most": answered / mean(most),
        "p99 of answers, ms": max(row["p99_ms"] for row in over),
        "refused": mean(row["refused_share"] for row in over),
        "p99 of refusals, ms": max(row["refused_p99_ms"] for row in over),
        "failures": ", ".join(sorted(failures)),
        "load's share of its processor": mean(row["generator_share"] for row in over),
    }


def _load(url: str, *words: object) -> list[dict[str, Any]]:
    command = ["taskset", "-c", "1", *_ZOO, "load", url, *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


@contextmanager
def _served(model: Path) -> Iterator[str]:
    command: Sequence[str] = [
        "taskset",
        "-c",
        "0",
        *_ZOO,
        "serve",
        str(model),
        *["--port", "0", "--json", "--threads", "1"],
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
