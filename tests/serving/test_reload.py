"""Models come and go while a server answers."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Server, Start

from zoo.serve.model import ServedOnnx
from zoo.serve.repository import Place, Repository
from zoo.serve.request import ModelSettings, ServeRequest
from zoo.serve.run import load_model
from zoo.serving.app import App
from zoo.serving.http import Request, Response
from zoo.serving.inference import Inference
from zoo.serving.models import Models, Served
from zoo.serving.repository import RepositoryControl

TENSORS = (
    b'{"inputs": [{"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},'
    b'{"name": "b", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
)


def _wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)


def _versions(server: Server, name: str) -> Any:
    return server.get(f"/v2/models/{name}").get("versions")


def _put(source: Path, target: Path) -> None:
    """Whole or not at all, as it should be done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)


def test_versions_come_are_checked_and_go(start: Start, model: Path, tensor_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    _put(tensor_model, folder / "plain.onnx")
    _put(model, folder / "shapes" / "1" / "model.onnx")
    server = start(folder, "--poll", "0.1")
    assert _versions(server, "shapes") == ["1"]
    _put(model, folder / "shapes" / "10" / "model.onnx")
    _wait(lambda: _versions(server, "shapes") == ["1", "10"])
    assert server.get("/v2/models/shapes/versions/10/ready")["ready"]
    # One that is damaged does not take the place of one that is not.
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    _put(tmp_path / "damaged", folder / "shapes" / "10" / "model.onnx")
    _put(tmp_path / "damaged", folder / "shapes" / "11" / "model.onnx")
    time.sleep(1)
    assert _versions(server, "shapes") == ["1", "10"]
    assert server.ask("GET", "/v2/models/shapes/versions/11")[0] == 404
    shutil.rmtree(folder / "shapes" / "10")
    _wait(lambda: _versions(server, "shapes") == ["1"])
    # A model that was required and is gone: the server is not ready.
    shutil.rmtree(folder / "shapes")
    _wait(lambda: server.ask("GET", "/v2/health/ready")[0] == 503)
    assert server.get("/v2/health/ready")["missing"] == ["shapes"]
    errors = server.stop()
    assert "version 10 of shapes is refused, the one before goes on" in errors
    assert "version 11 of shapes is refused, it is not served" in errors


def test_at_the_start_a_good_version_serves_beside_a_bad_one(
    start: Start, tensor_model: Path, tmp_path: Path, zoo_process: Callable[..., Any]
) -> None:
    folder = tmp_path / "models"
    _put(tensor_model, folder / "plain" / "1" / "model.onnx")
    (folder / "plain" / "2").mkdir()
    (folder / "plain" / "2" / "model.onnx").write_bytes(b"nonsense")
    assert _versions(start(folder), "plain") == ["1"]
    shutil.rmtree(folder / "plain" / "1")
    done = zoo_process("serve", folder, "--port", "0")
    assert done.returncode == 8
    done = zoo_process("serve", tmp_path / "models", tensor_model, tmp_path / "none.onnx", "--port", "0")
    assert "no such model" in done.stderr


def test_nothing_keeps_a_model_that_was_replaced(model: Path, dataset: Path) -> None:
    """Not even what was refused: Python may look for cycles much later."""
    image = min((dataset / "test").rglob("*.jpg")).read_bytes()
    settings = ServeRequest(models=(model,), device="cpu", settings=ModelSettings(threads=1))

    async def main() -> bool:
        models = Models()

        def load(place: Place) -> ServedOnnx:
            return load_model(place, settings)

        def put(loaded: ServedOnnx) -> weakref.ref[ServedOnnx]:
            models.put(Served(loaded, loaded.pace, max_queue=10, max_delay=0.0))
            return weakref.ref(loaded)

        async def remove(_: Place) -> None:
            return None

        async def ask(body: bytes) -> int:
            request = Request("POST", b"/predict", {}, "local")
            request.body = body
            answer = app(request)
            return (answer if isinstance(answer, Response) else await answer).status

        repository = Repository([model], load=load, put=put, remove=remove, is_required=lambda _: True)
        first = put(*repository.load_all())
        control = RepositoryControl(repository, may_load=False)
        app = App(models, Inference(models, timeout=None, workers=1), control, required=(), max_body=10**6)
        assert [await ask(body) for body in (image, image[:-100], b"none", b"")] == [200, 400, 400, 400]
        put(load(Place("shapes", 1, model)))
        await asyncio.sleep(0.2)  # threads end
        return first() is None

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.slow
def test_reloaded_a_hundred_times_under_load_without_a_failed_request(
    start: Start, tensor_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plain.onnx"
    _put(tensor_model, path)
    server = start(path, "--poll", "0.02")
    failed: list[Any] = []
    answered = [0]
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, answer = server.ask("POST", "/v2/models/plain/infer", TENSORS)
            answered[0] += 1
            if status != 200 or answer["outputs"][1]["data"] != [1.0, 4.0, 9.0]:
                failed.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        _put(tensor_model, path)
        time.sleep(0.15)
    over.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert answered[0] > 1000
    assert server.stop().count("version 1 of plain is loaded") >= 90
