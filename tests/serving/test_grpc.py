"""What is Zoo's own about its gRPC: limits, keys, deadlines, streams at the end, health."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from servers import Server, Start

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


def _request(**changed: Any) -> Any:
    pb = triton.service_pb2
    shape = changed.pop("shape", [1, 2, 2, 3])
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, **changed.pop("input", {})}
    values = {"model_name": "shapes", "inputs": [tensor], "raw_input_contents": [bytes(12)], **changed}
    return pb.ModelInferRequest(**values)


_INVALID = "INVALID_ARGUMENT"
_MALFORMED: dict[str, tuple[Callable[[], Any], str]] = {
    "two raw tensors": (lambda: _request(raw_input_contents=[bytes(12), b""]), _INVALID),
    "raw and contents": (lambda: _request(input={"contents": {"uint_contents": [0] * 12}}), _INVALID),
    "nothing": (lambda: _request(raw_input_contents=[]), _INVALID),
    "out of range": (
        lambda: _request(raw_input_contents=[], input={"contents": {"uint_contents": [256] * 12}}),
        _INVALID,
    ),
    "wrong datatype": (lambda: _request(input={"datatype": "FP32"}), _INVALID),
    "negative shape": (lambda: _request(shape=[-1, 2, 2, 3]), _INVALID),
    "no image": (lambda: _request(input={"datatype": "BYTES"}, shape=[1], raw_input_contents=[b"\1\0\0\0x"]), _INVALID),
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
            stub.SystemSharedMemoryStatus(triton.service_pb2.SystemSharedMemoryStatusRequest())
        assert caught.value.code().name == "UNIMPLEMENTED"
        typed = _request(raw_input_contents=[], input={"contents": {"uint_contents": [0] * 12}})
        raw = stub.ModelInfer(_request()).raw_output_contents
        assert stub.ModelInfer(typed).raw_output_contents == raw
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(_request(parameters={"timeout": {"int64_param": 1}}))  # microseconds
        assert caught.value.code().name == "DEADLINE_EXCEEDED"


def test_what_is_no_message_is_told_so_and_not_logged(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        for method, code in (
            ("ModelInfer", _INVALID),
            ("ServerReady", _INVALID),
            ("SystemSharedMemoryStatus", "UNIMPLEMENTED"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff\xff")
            assert caught.value.code().name == code
        [answer] = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff\xff"]))
        assert b"not a message: 2 bytes" in answer
    assert server.stop() == ""


def test_keys_and_health(start: Start, model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    server = start(model, "--grpc-port", "0", "--api-keys", keys, "--max-body", "1")
    with grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"  # SERVING
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(_request())
        assert caught.value.code().name == "UNAUTHENTICATED"
        # Refused by its metadata: the message is larger than what is read of one.
        large = _request(raw_input_contents=[bytes(2 * 2**20)])
        for ask in (stub.ModelInfer, lambda message: next(stub.ModelStreamInfer(iter([message])))):
            with pytest.raises(grpc.RpcError) as caught:
                ask(large)
            assert caught.value.code().name == "UNAUTHENTICATED"
        assert stub.ModelInfer(_request(), metadata=[("authorization", "Bearer secret")]).model_name == "shapes"
        assert stub.ModelInfer(_request(), metadata=[("x-api-key", "secret")]).model_name == "shapes"
        server.process.send_signal(signal.SIGTERM)
        assert next(watch) == b"\x08\x02"  # NOT_SERVING


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes most of a second: 50,000 products of a row with a matrix of 512 x 512."""
    size, kind = 512, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["row", "matrix"], ["next"]),
            helper.make_node("Identity", ["again"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("row", kind, [1, size]),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", kind, [1, size]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.eye(size, dtype=np.float32), "matrix"),
        numpy_helper.from_array(np.array(50_000, np.int64), "steps"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["steps", "", "x"], ["y"], body=body)],
        "slow",
        [helper.make_tensor_value_info("x", kind, [1, size])],
        [helper.make_tensor_value_info("y", kind, [1, size])],
        constants,
    )
    path = tmp_path_factory.mktemp("models") / "slow.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_what_nobody_waits_for_any_more_is_not_computed(start: Start, slow_model: Path) -> None:
    server = start(slow_model, "--grpc-port", "0", "--access-log")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 512]}
    asked = triton.service_pb2.ModelInferRequest(
        model_name="slow", inputs=[tensor], raw_input_contents=[bytes(4 * 512)]
    )
    with grpc.insecure_channel(server.grpc) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        first = stub.ModelInfer.future(asked)
        time.sleep(0.1)  # by now it is computed
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(asked, timeout=0.1)
        assert caught.value.code().name == "DEADLINE_EXCEEDED"
        assert not first.done()
        assert first.result().model_name == "slow"
        stream = stub.ModelStreamInfer(iter([asked] * 5))
        time.sleep(0.1)  # by now its first request is computed
        stream.cancel()
        assert stub.ModelInfer(asked).model_name == "slow"
    assert server.get("/v2/models/slow/stats")["model_stats"][0]["execution_count"] == 3
    calls = [json.loads(line) for line in server.stop().splitlines()]
    assert sorted((line["path"].rpartition("/")[2], line["status"]) for line in calls if line["method"] == "POST") == [
        *[("ModelInfer", 200)] * 2,
        ("ModelInfer", 499),
        ("ModelStreamInfer", 499),
    ]


def test_sigterm_ends_a_stream_behind_the_answers_to_what_was_read(server: Server) -> None:
    told = threading.Event()

    def ask() -> Iterator[Any]:
        for number in range(30):
            yield _request(id=str(number))
        told.wait(timeout=60)  # the client does not end it

    with grpc.insecure_channel(server.grpc) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(ask())
        ids = [next(answers).infer_response.id for _ in range(30)]
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        told.set()
    assert ids == [str(number) for number in range(30)]
    assert (caught.value.code().name, "about to go" in caught.value.details()) == ("UNAVAILABLE", True)
    assert server.process.wait(timeout=10) == 0


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
