"""A server under mixed traffic for long: does its memory stay as it is?

    python benchmarks/soak.py model.onnx --seconds 600

Clients send image files and pixels of many sizes, JSON, what is malformed, and half requests before they leave; one
speaks gRPC where that is installed; the file, one of `zoo export`, is replaced and loaded again every few seconds.
Memory is what the server has resident. The slope is that of a straight line through the second half of what was read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reporting import report

from zoo.client.wire import Message, bytes_array, infer_request

_CLIENTS = 4
_SMALLEST = 20
"""Pixels of the smallest side of images."""
_IMAGES = 32
_RELOAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server, and what came of requests to it."""

    process: subprocess.Popen[str]
    port: int
    grpc: str | None
    counts: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def memory(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two looks at the memory")
    parser.add_argument("--largest", type=int, default=1200, help="pixels of the largest side of images")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    images = [_image(random.Random(number), arguments.largest) for number in range(_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(arguments.model, Path(folder) / "soaked.onnx"))
        with _serve(path) as served:
            rows = _soak(served, path, images, arguments)
    report(rows, arguments.out)


def _soak(served: Served, path: Path, images: list[bytes], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    work: list[Callable[[], None]] = [
        *(lambda seed=seed: _ask(served, images, random.Random(seed)) for seed in range(_CLIENTS)),
        lambda: _leave(served, images),
        lambda: _replace(served, path),
    ]
    if served.grpc is not None:
        work.append(lambda: _ask_by_grpc(served, images))
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    began, rows = time.monotonic(), list[dict[str, Any]]()
    while (passed := time.monotonic() - began) < arguments.seconds:
        time.sleep(min(arguments.every, arguments.seconds - passed))
        rows.append({"after, s": round(time.monotonic() - began), "memory, MiB": served.memory(), **served.counts})
    served.over.set()
    for thread in threads:
        thread.join()
    half = rows[len(rows) // 2 :]
    slope = np.polyfit([row["after, s"] / 3600 for row in half], [row["memory, MiB"] for row in half], 1)[0]
    rows[-1]["slope, MiB an hour"] = float(slope)
    return rows


def _ask(served: Served, images: list[bytes], chance: random.Random) -> None:
    """One client that keeps its connection where it may."""
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=60)) as client:
        while not served.over.is_set():
            method, path, message = _request(images, chance)
            try:
                client.request(method, path, message.body, dict(message.headers))
                with client.getresponse() as answer:
                    answer.read()
                    served.counts[f"{answer.status // 100}xx"] += 1
            except (OSError, HTTPException):
                served.counts["broken"] += 1
                client.close()


def _request(images: list[bytes], chance: random.Random) -> tuple[str, str, Message]:
    infer, image = "/v2/models/soaked/infer", chance.choice(images)
    kind = chance.randrange(8)
    if kind < 2:
        return "POST", "/predict", Message(body=image, headers={})
    if kind == 2:
        return "POST", infer, infer_request({"image": bytes_array(chance.sample(images, 3))})
    if kind == 3:
        pixels = np.zeros((1, *Image.open(io.BytesIO(image)).size, 3), np.uint8)
        return "POST", infer, infer_request({"image": pixels})
    if kind == 4:
        pixels = np.zeros((1, chance.randrange(20, 60), chance.randrange(20, 60), 3), np.uint8)
        return "POST", infer, infer_request({"image": pixels}, binary=False)
    if kind == 5:
        path = chance.choice(["/metrics", "/v2/models/soaked/stats", "/v2/models/soaked", "/", "/nothing"])
        return "GET", path, Message(body=b"", headers={})
    if kind == 6:
        return "POST", "/predict", Message(body=image[: len(image) // 2], headers={})
    message = infer_request({"image": bytes_array([image])})
    at = chance.randrange(min(150, len(message.body)))
    broken = message.body[:at] + chance.randbytes(3) + message.body[at + chance.randrange(5) :]
    return "POST", infer, Message(body=broken, headers=message.headers)


def _leave(served: Served, images: list[bytes]) -> None:
    """Clients that leave in the middle of a request, and before its answer."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    for number in range(10**9):
        if served.over.wait(0.02):
            return
        image = images[number % len(images)]
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(head % len(image) + image[: len(image) // (number % 3 + 1)])
        served.counts["left"] += 1


def _replace(served: Served, path: Path) -> None:
    """The same file anew, in one step."""
    while not served.over.wait(_RELOAD_SECONDS):
        shutil.copy(path, path.with_suffix(".part")).replace(path)
        served.counts["file replaced"] += 1


def _ask_by_grpc(served: Served, images: list[bytes]) -> None:
    import grpc

    from zoo.serving.grpc_messages import message

    with grpc.insecure_channel(served.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda asked: asked.SerializeToString(),
            response_deserializer=message("inference.ModelInferResponse").FromString,
        )
        for number in range(10**9):
            if served.over.is_set():
                return
            asked = message("inference.ModelInferRequest")(model_name="soaked")
            tensor = asked.inputs.add(name="image", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(images[number % len(images)][number % 2 :])  # each second is no image
            try:
                infer(asked, timeout=None if number % 7 else 0.001)
                served.counts["gRPC"] += 1
            except grpc.RpcError as error:
                served.counts[f"gRPC {error.code().name.lower()}"] += 1


def _image(chance: random.Random, largest: int) -> bytes:
    """A file of noise, JPEG or PNG, of some size."""
    pixels = np.frombuffer(chance.randbytes(30 * 40 * 3), np.uint8).reshape(30, 40, 3)
    file = io.BytesIO()
    size = chance.randint(_SMALLEST, largest), chance.randint(_SMALLEST, largest)
    Image.fromarray(pixels).resize(size).save(file, chance.choice(["jpeg", "png"]))
    return file.getvalue()


@contextmanager
def _serve(model: Path) -> Iterator[Served]:
    words = f"-m zoo_cli serve {model} --port 0 --json --threads 1 --poll 0.5 --quiet".split()
    grpc = ["--grpc-port", "0"] if find_spec("grpc") else []
    command = ["taskset", "-c", "0", sys.executable, *words, *grpc]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        try:
            yield Served(process=process, port=int(told["url"].rpartition(":")[2]), grpc=told.get("grpc"))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
