"""Real servers, and tritonclient's gRPC clients as they are."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server, Start

from zoo.predict import predict

triton = pytest.importorskip("tritonclient.grpc")
grpc = pytest.importorskip("grpc")


@pytest.fixture
def server(start: Start, model: Path) -> Server:
    """It serves an exported model."""
    return start(model, "--grpc-port", "0")


def _files(paths: list[Path]) -> Any:
    tensor = triton.InferInput("image", [len(paths)], "BYTES")
    tensor.set_data_from_numpy(np.array([path.read_bytes() for path in paths], object))
    return tensor


@pytest.fixture
def jpegs(dataset: Path) -> list[Path]:
    """Test images as files."""
    return sorted((dataset / "test").rglob("*.jpg"))[:3]


def test_tritonclient(server: Server, model: Path, jpegs: list[Path]) -> None:
    expected = [row["top"][0] for row in predict(model, jpegs, device="cpu")]
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("shapes", "1")
        assert not client.is_model_ready("other")
        assert "classification" in client.get_server_metadata().extensions
        metadata = client.get_model_metadata("shapes")
        assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
            ("image", "UINT8", [-1, -1, -1, 3])
        ]
        assert client.get_model_config("shapes").config.input[0].name == "image"
        assert [each.state for each in client.get_model_repository_index().models] == ["READY"]
        wanted = triton.InferRequestedOutput("probabilities", class_count=1)
        answer = client.infer("shapes", [_files(jpegs)], outputs=[wanted], request_id="7")
        assert answer.get_response().id == "7"
        labels = [best.decode().split(":")[2] for best in answer.as_numpy("probabilities").ravel()]
        assert labels == [best["label"] for best in expected]
        # Also the numbers: those of a tensor are those of the file.
        shares = client.infer("shapes", [_files(jpegs)]).as_numpy("probabilities").max(1)
        assert np.allclose(shares, [best["probability"] for best in expected], atol=1e-6)
        counted = client.get_inference_statistics("shapes").model_stats[0]
        assert counted.inference_stats.success.count == 2
    assert server.get("/v2/models/shapes/stats")["model_stats"][0]["inference_stats"]["success"]["count"] == 2


def test_tritonclient_of_asyncio(server: Server, jpegs: list[Path]) -> None:
    aio = pytest.importorskip("tritonclient.grpc.aio")

    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_ready()
            return await asyncio.gather(*(client.infer("shapes", [_files(jpegs)]) for _ in range(20)))

    answers = [answer.as_numpy("probabilities") for answer in asyncio.run(ask())]
    assert all(np.allclose(answer, answers[0], atol=1e-6) for answer in answers)


def _request(**changed: Any) -> Any:
    pb = triton.service_pb2
    shape = changed.pop("shape", [1, 2, 2, 3])
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, **changed.pop("input", {})}
    values = {"model_name": "shapes", "inputs": [tensor], "raw_input_contents": [bytes(12)], **changed}
    return pb.ModelInferRequest(**values)


_INVALID = "INVALID_ARGUMENT"
_MALFORMED: dict[str, tuple[Callable[[], Any], str]] = {
    "too few raw bytes": (lambda: _request(raw_input_contents=[bytes(11)]), _INVALID),
    "too many raw bytes": (lambda: _request(raw_input_contents=[bytes(13)]), _INVALID),
    "two raw tensors": (lambda: _request(raw_input_contents=[bytes(12), b""]), _INVALID),
    "raw and contents": (lambda: _request(input={"contents": {"uint_contents": [0] * 12}}), _INVALID),
    "nothing": (lambda: _request(raw_input_contents=[]), _INVALID),
    "out of range": (
        lambda: _request(raw_input_contents=[], input={"contents": {"uint_contents": [256] * 12}}),
        _INVALID,
    ),
    "unknown input": (lambda: _request(input={"name": "other"}), _INVALID),
    "wrong datatype": (lambda: _request(input={"datatype": "FP32"}), _INVALID),
    "unknown datatype": (lambda: _request(raw_input_contents=[], input={"datatype": "X"}), _INVALID),
    "negative shape": (lambda: _request(shape=[-1, 2, 2, 3]), _INVALID),
    "no image": (lambda: _request(input={"datatype": "BYTES"}, shape=[1], raw_input_contents=[b"\1\0\0\0x"]), _INVALID),
    "unknown output": (lambda: _request(outputs=[{"name": "other"}]), _INVALID),
    "unknown model": (lambda: _request(model_name="other"), "NOT_FOUND"),
    "unknown version": (lambda: _request(model_version="9"), "NOT_FOUND"),
    "larger than --max-body": (lambda: _request(raw_input_contents=[bytes(2 * 2**20)]), "RESOURCE_EXHAUSTED"),
}


def test_what_is_wrong_is_told_with_its_code(start: Start, model: Path) -> None:
    server = start(model, "--grpc-port", "0", "--max-body", "1")
    with grpc.insecure_channel(server.grpc) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for what, (request, code) in _MALFORMED.items():
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(request())
            assert caught.value.code().name == code, (what, caught.value.details())
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(triton.service_pb2.RepositoryModelLoadRequest(model_name="shapes"))
        assert caught.value.code().name == "UNIMPLEMENTED"
        typed = _request(raw_input_contents=[], input={"contents": {"uint_contents": [0] * 12}})
        raw = stub.ModelInfer(_request()).raw_output_contents
        assert stub.ModelInfer(typed).raw_output_contents == raw
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(_request(parameters={"timeout": {"int64_param": 1}}))  # microseconds
        assert caught.value.code().name == "DEADLINE_EXCEEDED"


def test_keys_and_health(start: Start, model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    server = start(model, "--grpc-port", "0", "--api-keys", keys)
    with grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"  # SERVING
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(_request())
        assert caught.value.code().name == "UNAUTHENTICATED"
        assert stub.ModelInfer(_request(), metadata=[("authorization", "Bearer secret")]).model_name == "shapes"
        assert stub.ModelInfer(_request(), metadata=[("x-api-key", "secret")]).model_name == "shapes"
        server.process.send_signal(signal.SIGTERM)
        assert next(watch) == b"\x08\x02"  # NOT_SERVING


def test_nothing_under_way_is_lost_on_sigterm(start: Start, model: Path, jpegs: list[Path]) -> None:
    """Whatever the server has begun is answered, by both protocols, and its answer reaches the client; so is what is
    asked in the seconds for which a load balancer still sends requests."""
    server = start(model, "--grpc-port", "0", "--access-log", "--drain-delay", "1")
    refused: list[str] = []
    counts: list[int] = []
    lost: list[str] = []
    answered: list[float] = []

    def ask() -> None:
        count = 0
        with triton.InferenceServerClient(server.grpc) as client:
            while True:
                try:
                    client.infer("shapes", [_files(jpegs)])
                    count += 1
                    answered.append(time.monotonic())
                except triton.InferenceServerException as error:
                    refused.append(error.status())
                    counts.append(count)
                    return

    def ask_by_http() -> None:
        count, errors = server.ask_until_gone("/predict", jpegs[0].read_bytes())
        counts.append(count)
        lost.extend(errors)

    threads = [threading.Thread(target=each) for each in (ask, ask_by_http) * 3]
    for thread in threads:
        thread.start()
    time.sleep(1)
    asked_to_end = time.monotonic()
    errors = server.stop()
    for thread in threads:
        thread.join(30)
    begun = [json.loads(line)["status"] for line in errors.splitlines()]
    assert begun == [200] * sum(counts), (begun[-8:], len(begun), counts, refused)
    assert lost == []
    assert max(answered) > asked_to_end + 0.8
    # What gRPC itself says to calls that reach it while or after it closes, of which none was begun.
    assert set(refused) <= {"StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}
