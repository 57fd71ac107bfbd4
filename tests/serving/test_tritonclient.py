"""tritonclient as it is, over HTTP and gRPC, synchronous and of asyncio: all it asks about models and of them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from inspect import isawaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SHAPES
from servers import Server, running

from zoo.data.images import decode_image
from zoo.predict import predict

pytest.importorskip("tritonclient.http.aio")
pytest.importorskip("tritonclient.grpc.aio")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    """It serves an exported model."""
    with running(model, "--grpc-port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def jpegs(dataset: Path) -> list[Path]:
    """Test images as files."""
    return sorted((dataset / "test").rglob("*.jpg"))[:5]


@pytest.fixture(scope="module")
def expected(model: Path, jpegs: list[Path]) -> np.ndarray:
    """Probabilities [N, C] of the test images."""
    rows = predict(model, jpegs, device="cpu")
    return np.array([[best["probability"] for best in sorted(row["top"], key=lambda x: x["label"])] for row in rows])


class Asker:
    """One of the four clients, and the types that go with it."""

    def __init__(self, module: str, server: Server) -> None:
        self.is_grpc = module.startswith("grpc")
        self._types = import_module(f"tritonclient.{module.removesuffix('.aio')}")
        address = server.grpc if self.is_grpc else server.url.removeprefix("http://")
        self._client = import_module(f"tritonclient.{module}").InferenceServerClient(address)

    async def __call__(self, name: str, *arguments: Any, **more: Any) -> Any:
        """What a method of the client gives; metadata as JSON."""
        if self.is_grpc and name.startswith("get_"):
            more["as_json"] = True
        value = getattr(self._client, name)(*arguments, **more)
        return await value if isawaitable(value) else value

    def tensor(self, array: np.ndarray, *, binary: bool = True) -> Any:
        """The input `image`."""
        tensor = self._types.InferInput("image", list(array.shape), "BYTES" if array.dtype == object else "UINT8")
        tensor.set_data_from_numpy(array, **({} if self.is_grpc else {"binary_data": binary}))
        return tensor

    def wanted(self, *, classes: int = 0, binary: bool = True) -> Any:
        """The output `probabilities`."""
        form = {} if self.is_grpc else {"binary_data": binary}
        return self._types.InferRequestedOutput("probabilities", class_count=classes, **form)

    def compressions(self) -> list[dict[str, str | None]]:
        """Ways to compress requests, and answers."""
        if self.is_grpc:
            return [{"compression_algorithm": name} for name in (None, "gzip", "deflate")]
        return [
            {"request_compression_algorithm": name, "response_compression_algorithm": name}
            for name in (None, "gzip", "deflate")
        ]


def _files(paths: list[Path]) -> np.ndarray:
    return np.array([path.read_bytes() for path in paths], object)


@pytest.mark.parametrize("module", ["http", "http.aio", "grpc", "grpc.aio"])
def test_what_a_client_can_ask(server: Server, module: str, jpegs: list[Path], expected: np.ndarray) -> None:
    async def run() -> None:
        ask = Asker(module, server)
        try:
            await _of_the_server(ask)
            await _of_a_model(ask, jpegs, expected)
        finally:
            await ask("close")

    asyncio.run(run())


async def _of_the_server(ask: Asker) -> None:
    assert await ask("is_server_live")
    assert await ask("is_server_ready")
    assert await ask("is_model_ready", "shapes")
    assert await ask("is_model_ready", "shapes", "1")
    assert not await ask("is_model_ready", "other")
    assert not await ask("is_model_ready", "shapes", "9")
    assert "classification" in (await ask("get_server_metadata"))["extensions"]
    metadata = await ask("get_model_metadata", "shapes", "1")
    assert metadata["platform"] == "onnx_onnxv1"
    assert [(each["name"], each["datatype"]) for each in metadata["inputs"]] == [("image", "UINT8")]
    if ask.is_grpc:
        assert [each["state"] for each in (await ask("get_model_repository_index"))["models"]] == ["READY"]
    config = await ask("get_model_config", "shapes")
    assert (config["config"] if ask.is_grpc else config)["input"][0]["name"] == "image"


async def _of_a_model(ask: Asker, jpegs: list[Path], expected: np.ndarray) -> None:
    before = await _counted(ask)
    for binary in (True, False):
        pixels, wanted = decode_image(jpegs[0])[None], [ask.wanted(binary=binary)]
        tensor = ask.tensor(pixels, binary=binary)
        answer = await ask("infer", "shapes", [tensor], "1", outputs=wanted, request_id="7", timeout=60_000_000)
        told = answer.get_response()
        assert (told.id if ask.is_grpc else told["id"]) == "7"
        assert np.allclose(answer.as_numpy("probabilities"), expected[:1], atol=1e-6)
    files = ask.tensor(_files(jpegs))
    for compression in ask.compressions():
        answer = await ask("infer", "shapes", [files], **compression)
        assert np.allclose(answer.as_numpy("probabilities"), expected, atol=1e-6)
    best = (await ask("infer", "shapes", [files], outputs=[ask.wanted(classes=2)])).as_numpy("probabilities")
    assert best.shape == (len(jpegs), 2)
    assert [row[0].decode().split(":")[2] for row in best] == [SHAPES[row.argmax()] for row in expected]
    assert await _counted(ask) == before + 6
    with pytest.raises(Exception, match="unknown model: 'other'"):
        await ask("infer", "other", [files])


async def _counted(ask: Asker) -> int:
    assert (await ask("get_inference_statistics"))["model_stats"][0]["name"] == "shapes"
    counted = (await ask("get_inference_statistics", "shapes"))["model_stats"][0]
    return int(counted["inference_stats"]["success"].get("count", 0))  # protobuf leaves zeros out


def test_answers_that_are_fetched_later(server: Server, jpegs: list[Path], expected: np.ndarray) -> None:
    import tritonclient.grpc as grpc
    import tritonclient.http as http

    def tensor(module: Any) -> Any:
        found = module.InferInput("image", [len(jpegs)], "BYTES")
        found.set_data_from_numpy(_files(jpegs))
        return found

    with http.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as client:
        waiting = [client.async_infer("shapes", [tensor(http)]) for _ in range(8)]
        answers = [each.get_result() for each in waiting]
    told: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(server.grpc) as client:
        for _ in range(8):
            client.async_infer("shapes", [tensor(grpc)], lambda result, error: told.put(error or result))
        answers += [told.get(timeout=60) for _ in range(8)]
    assert all(np.allclose(answer.as_numpy("probabilities"), expected, atol=1e-6) for answer in answers)


def test_streams(server: Server, jpegs: list[Path], expected: np.ndarray) -> None:
    """Answers come in order, those that say why there is none, too."""
    import tritonclient.grpc as grpc
    import tritonclient.grpc.aio as aio

    def tensors(row: int) -> list[Any]:
        found = grpc.InferInput("image", [1], "BYTES")
        content = b"none" if row == 2 else jpegs[row].read_bytes()
        found.set_data_from_numpy(np.array([content], object))
        return [found]

    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    rows = range(len(jpegs))
    with grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        for row in rows:
            client.async_stream_infer("shapes", tensors(row), request_id=str(row), enable_empty_final_response=True)
        answers = [arrived.get(timeout=60) for _ in rows]
        client.stop_stream()

    async def ask() -> list[tuple[Any, Any]]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for row in rows:
                yield {"model_name": "shapes", "inputs": tensors(row)}

        async with aio.InferenceServerClient(server.grpc) as client:
            return [answer async for answer in client.stream_infer(requests())]

    for found in (answers, asyncio.run(ask())):
        for row, (result, error) in zip(rows, found, strict=True):
            if row == 2:
                assert "not an image" in error.message()
                continue
            assert np.allclose(result.as_numpy("probabilities")[0], expected[row], atol=1e-6)
    told = [result.get_response() for result, _ in answers if result is not None]
    assert [each.id for each in told] == ["0", "1", "3", "4"]
    assert all(each.parameters["triton_final_response"].bool_param for each in told)
