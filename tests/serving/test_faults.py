"""What is wrong, torn or meant badly: it is refused with a reason, and nothing is left of it."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import zlib
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from servers import Server, Start

REQUESTS = 10_000
_ODD = [b"-1", b"99999999999999999999", b"null", b"{}", b"[[[[", b'"', b"1e999"]


def _binary(name: str, shape: list[int], datatype: str, content: bytes) -> tuple[bytes, int]:
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
    return head + content, len(head)


def _broken(random_: random.Random, jpeg: bytes) -> tuple[bytes, dict[str, str]]:
    """A request like those of clients, with some of it changed, taken away, put in or said otherwise."""
    kind = random_.randrange(3)
    if kind == 0:
        body, length = _binary("image", [1, 4, 4, 3], "UINT8", bytes(48))
    elif kind == 1:
        body, length = _binary("image", [1], "BYTES", struct.pack("<I", len(jpeg)) + jpeg)
    else:
        values = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": list(range(12))}
        body, length = json.dumps({"id": "x", "inputs": [values]}).encode(), -1
    broken = bytearray(body)
    for _ in range(random_.randrange(1, 4)):
        at = random_.randrange(len(broken) if random_.random() < 0.3 else min(len(broken), 200))
        change = random_.randrange(4)
        if change == 0:
            broken[at] = random_.randrange(256)
        elif change == 1:
            del broken[at : at + random_.randrange(1, 20)]
        elif change == 2:
            broken[at:at] = random_.randbytes(random_.randrange(1, 20))
        else:
            broken[at : at + 1] = random_.choice(
                [b"-1", b"99999999999999999999", b"null", b"{}", b"[[[[", b'"', b"1e999"]
            )
        if not broken:
            broken = bytearray(b"x")
    headers = {}
    if length >= 0 and random_.random() < 0.9:
        wrong = random_.choice([str(random_.randrange(len(broken) + 50)), "-5", "abc", "0", ""])
        headers["Inference-Header-Content-Length"] = str(length) if random_.random() < 0.6 else wrong
    if random_.random() < 0.1:
        headers["Content-Encoding"] = random_.choice(["gzip", "deflate", "br", "x" * 500])
    return bytes(broken), headers


def test_ten_thousand_malformed_requests(start: Start, model: Path, dataset: Path) -> None:
    server = start(model)
    jpeg = next((dataset / "test").rglob("*.jpg")).read_bytes()
    random_ = random.Random(0)
    statuses: dict[int, int] = {}
    memory = 0
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        for number in range(REQUESTS):
            body, headers = _broken(random_, jpeg)
            connection.request("POST", f"/v2/models/shapes/{random_.choice(['infer'] * 9 + ['x'])}", body, headers)
            with connection.getresponse() as answer:
                content = answer.read()
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                assert answer.status < 500, (body[:300], headers, content)
                assert answer.status == 200 or json.loads(content)["error"], content
            if number == REQUESTS // 10:
                memory = _memory(server)
    assert statuses[400] > REQUESTS // 2
    assert _memory(server) - memory < 10e6
    assert server.stop() == ""


@pytest.mark.slow
def test_what_schemathesis_makes_of_the_description(start: Start, model: Path, tensor_model: Path) -> None:
    server = start(model, tensor_model)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    arguments = ["--seed", "0", "--checks", checks, "--max-examples", "50", "--phases", "examples,coverage,fuzzing"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert server.stop() == ""


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A PNG of 10 KB that would be 10 GB of pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**7))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def test_images_that_unfold_in_memory(start: Start, model: Path, bomb: bytes) -> None:
    server = start(model)
    before = _memory(server)
    status, answer = server.ask("POST", "/predict", bomb)
    assert (status, "too large" in answer["error"]) == (400, True)
    pixels = {"name": "image", "shape": [1, 60_000, 60_000, 3], "datatype": "UINT8", "data": []}
    assert server.ask("POST", "/v2/models/shapes/infer", json.dumps({"inputs": [pixels]}).encode())[0] == 400
    packed = zlib.compress(bytes(70 * 2**20))
    assert server.ask("POST", "/v2/models/shapes/infer", packed, Content_Encoding="deflate")[0] == 413
    assert _memory(server) - before < 150e6


def test_what_unfolds_in_memory_by_grpc(start: Start, model: Path, bomb: bytes) -> None:
    grpc, triton = pytest.importorskip("grpc"), pytest.importorskip("tritonclient.grpc")
    server = start(model, "--grpc-port", "0")
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [bomb]}}
    pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 60_000, 60_000, 3]}
    requests = [
        ({"inputs": [image]}, "INVALID_ARGUMENT", "too large"),
        ({"inputs": [pixels], "raw_input_contents": [b""]}, "INVALID_ARGUMENT", "0"),
        ({"inputs": [pixels], "raw_input_contents": [bytes(70 * 2**20)]}, "RESOURCE_EXHAUSTED", "larger than max"),
    ]
    before = _memory(server)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for values, code, words in requests:
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(
                    triton.service_pb2.ModelInferRequest(model_name="shapes", **values),
                    compression=grpc.Compression.Gzip,
                )
            assert (caught.value.code().name, words in caught.value.details()) == (code, True), caught.value.details()
    assert _memory(server) - before < 150e6
    assert server.get("/v2/health/ready")["ready"]


def test_a_request_of_more_than_the_queue_is_answered_whole(start: Start, tensor_model: Path) -> None:
    server = start(tensor_model, "--max-queue", "4")
    rows = np.arange(3000.0).reshape(1000, 3)
    tensors = [
        {"name": name, "shape": [1000, 3], "datatype": "FP32", "data": rows.ravel().tolist()} for name in ("a", "b")
    ]
    status, answer = server.ask("POST", "/v2/models/plain/infer", json.dumps({"inputs": tensors}).encode())
    assert status == 200
    assert np.allclose(answer["outputs"][0]["data"], 2 * rows.ravel())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _memory(server: Server) -> int:
    """Bytes in use."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
