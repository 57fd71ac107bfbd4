"""`zoo serve` beside other servers of ONNX models, and beside ONNX Runtime without a server.

    python benchmarks/serving.py ../shared/serving_bench --venvs VENVS --models MODELS --targets "zoo fastapi-raw"

`serving_bench` starts each of the other servers, and measures all with the same load: the server on the first
processor, the load on the second, one thread each; one request carries one image as float32. Its README says how its
environments and models are made. `zoo` is `zoo serve MODEL` with binary tensors over REST, `zoo-grpc` the same over
gRPC. Requests per second stand beside those of ONNX Runtime on the same processor in the same minute (`ratio`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from reporting import report

_MODELS = ("tiny_cnn", "mobilenet_v2")
_COLUMNS = {
    "target": "server",
    "model": "network",
    "conc": "at once",
    "req_s": "requests/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "ratio": "of bare ONNX Runtime",
    "cpu_us_req": "processor time of a request, us",
    "rss_mib": "memory, MiB",
    "cold_s": "first answer after, s",
    "errors": "errors",
}
_OURS = {"zoo": "v2bin", "zoo-grpc": "grpc"}
_PORT = 8310


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="the folder of serving_bench")
    parser.add_argument("--venvs", type=Path, required=True, help="a folder with an environment for each other server")
    parser.add_argument("--models", type=Path, required=True, help="what its make_models.py wrote")
    parser.add_argument("--targets", default="zoo")
    parser.add_argument("--only", choices=_MODELS, help="only this network")
    parser.add_argument("--concurrency", default="1,8,32,128")
    parser.add_argument("--seconds", type=int, default=5, help="for each cell")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in [arguments.only] if arguments.only else _MODELS:
            for target in arguments.targets.split():
                rows += _measure(target, model, Path(folder) / "cells.jsonl", arguments)
    report([{column: row.get(name) for name, column in _COLUMNS.items()} for row in rows], arguments.out)


def _measure(target: str, model: str, cells: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cells.unlink(missing_ok=True)
    common = (
        *("--target", target, "--model", model, "--venvs", arguments.venvs.resolve(), "--pin", "--out", cells),
        *("--models", arguments.models.resolve(), "--concurrency", arguments.concurrency),
        *("--seconds", arguments.seconds, "--log", cells.with_name("server.log")),
    )
    if target not in _OURS:
        _bench(arguments, common)
        return _read(cells)
    with _served(arguments.models / f"{model}.onnx") as (pid, port, seconds):
        url = f"http://127.0.0.1:{port + (target == 'zoo-grpc')}"
        path = "/inference.GRPCInferenceService/ModelInfer" if target == "zoo-grpc" else f"/v2/models/{model}/infer"
        _bench(arguments, (*common, "--url", url + path, "--wire", _OURS[target], "--pid", pid))
    return [{**row, "cold_s": round(seconds, 2)} for row in _read(cells)]


def _bench(arguments: argparse.Namespace, words: tuple[object, ...]) -> None:
    python = (arguments.venvs / "base" / "bin" / "python").absolute()
    done = subprocess.run([str(python), "bench.py", *map(str, words)], cwd=arguments.bench, stderr=subprocess.PIPE)
    if done.returncode:
        print(done.stderr.decode(), file=sys.stderr)


def _read(cells: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cells.read_text().splitlines()] if cells.exists() else []


@contextmanager
def _served(model: Path) -> Iterator[tuple[int, int, float]]:
    """The pid and port of a server of this one file, and the seconds from its start to its first answer."""
    words = ("serve", model, "--port", _PORT, "--grpc-port", _PORT + 1, "--threads", 1, "--device", "cpu")
    began = time.perf_counter()
    command = ["taskset", "-c", "0", shutil.which("zoo") or "zoo", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ) as process:
        try:
            _wait(f"http://127.0.0.1:{_PORT}/v2/models/{model.stem}/ready")
            yield process.pid, _PORT, time.perf_counter() - began
        finally:
            process.terminate()


def _wait(url: str) -> None:
    for _ in range(1000):
        try:
            with urlopen(url):
                return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
