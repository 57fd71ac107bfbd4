"""Models loaded and unloaded by tritonclient's clients as they are."""

from __future__ import annotations

import shutil
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from servers import Server, Start

grpc_client = pytest.importorskip("tritonclient.grpc")
http_client = pytest.importorskip("tritonclient.http")
TENSORS = (
    b'{"inputs": [{"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},'
    b'{"name": "b", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
)


@pytest.fixture
def folder(model: Path, tensor_model: Path, tmp_path: Path) -> Path:
    """Two models."""
    folder = tmp_path / "models"
    (folder / "shapes" / "1").mkdir(parents=True)
    shutil.copy(model, folder / "shapes" / "1" / "model.onnx")
    shutil.copy(tensor_model, folder / "plain.onnx")
    return folder


def _client(server: Server, kind: str) -> Any:
    if kind == "grpc":
        return grpc_client.InferenceServerClient(server.grpc)
    # One that waits: models are checked and warmed up before the answer.
    return http_client.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=120)


def _states(client: Any) -> dict[str, tuple[str, str]]:
    found = client.get_model_repository_index()
    entries = (
        found
        if isinstance(found, list)
        else [
            {"name": each.name, "version": each.version, "state": each.state, "reason": each.reason}
            for each in found.models
        ]
    )
    return {f"{each['name']}:{each['version']}": (each["state"], each["reason"]) for each in entries}


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient_loads_and_unloads(start: Start, folder: Path, kind: str) -> None:
    server = start(folder, "--grpc-port", "0", "--allow-load", "--poll", "0.05")
    with _client(server, kind) as client:
        assert _states(client) == {"plain:1": ("READY", ""), "shapes:1": ("READY", "")}
        client.unload_model("plain")
        assert not client.is_model_ready("plain")
        # What somebody took out on purpose is not missed, and the watcher of the folder does not bring it back.
        assert client.is_server_ready()
        (folder / "plain.onnx").touch()
        time.sleep(0.5)
        assert _states(client)["plain:1"] == ("UNAVAILABLE", "unloaded")
        client.load_model("plain")
        assert client.is_model_ready("plain")
        # A damaged file is refused with the reason, and the one before goes on; with the good one again all is well.
        good = (folder / "shapes" / "1" / "model.onnx").read_bytes()
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        (folder / "shapes" / "1" / "model.onnx").write_bytes(damaged)
        with pytest.raises(Exception, match="failed to load 'shapes': version 1: file is damaged"):
            client.load_model("shapes")
        state, reason = _states(client)["shapes:1"]
        assert state == "READY"
        assert "damaged" in reason
        assert client.is_model_ready("shapes")
        (folder / "shapes" / "1" / "model.onnx").write_bytes(good)
        client.load_model("shapes")
        assert _states(client)["shapes:1"] == ("READY", "")
        for change in (client.load_model, client.unload_model):
            with pytest.raises(Exception, match="no such model"):
                change("other")
        with pytest.raises(Exception, match=r"load parameter: 'config'; none is known"):
            client.load_model("plain", config="{}")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_off_unless_allowed(start: Start, tensor_model: Path, kind: str) -> None:
    server = start(tensor_model, "--grpc-port", "0")
    with _client(server, kind) as client:
        assert _states(client) == {"plain:1": ("READY", "")}
        for change in (client.load_model, client.unload_model):
            with pytest.raises(Exception, match="explicit model load / unload is not allowed") as caught:
                change("plain")
            assert caught.value.status() in ("403", "StatusCode.PERMISSION_DENIED")
        assert client.is_model_ready("plain")
    assert server.ask("POST", "/v2/repository/index", b"[]")[0] == 400
    assert server.ask("POST", "/v2/repository/models/plain", b"")[0] == 404


def test_unloading_and_loading_under_load_fails_no_request_that_was_taken(start: Start, folder: Path) -> None:
    """Image files are decoded between the moment a request finds its model and the moment it joins its queue."""
    server = start(folder, "--allow-load")
    statuses: list[tuple[int, str]] = []
    content = BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(content, "PNG")
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, answer = server.ask("POST", "/predict?model=shapes", content.getvalue())
            statuses.append((status, str(answer)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert server.ask("POST", "/v2/repository/models/shapes/unload", b"{}")[0] == 200
        assert server.ask("POST", "/v2/models/shapes/infer", TENSORS)[0] == 404
        assert server.ask("POST", "/v2/repository/models/shapes/load", b"")[0] == 200
    over.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert {status for status, _ in statuses} == {200, 404}
    assert all("unknown model: 'shapes'" in text for status, text in statuses if status == 404)
