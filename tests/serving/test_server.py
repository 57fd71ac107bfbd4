"""A real server process, real clients."""

from __future__ import annotations

import gzip
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conformance.models import write
from conformance.wire import sample
from helpers import SHAPES, draw
from servers import running

from zoo.artifacts.seal import ONNX_KEY, UNSEALED, seal
from zoo.client import Client
from zoo.errors import ServerError
from zoo.predict import predict


@pytest.fixture(scope="module")
def url(model: Path, tensor_model: Path) -> Iterator[str]:
    """The address of a server of an exported model and a plain ONNX file."""
    with running(model, tensor_model) as server:
        yield server.url
        assert server.stop(signal.SIGINT) == ""


@pytest.fixture(scope="module")
def jpegs(dataset: Path) -> list[Path]:
    """Test images as files."""
    return sorted((dataset / "test").rglob("*.jpg"))[:5]


def _get(url: str) -> Any:
    with urlopen(url) as answer:
        return json.load(answer)


def _post(url: str, body: bytes | dict[str, Any], **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urlopen(Request(url, content, {name.replace("_", "-"): value for name, value in headers.items()})) as answer:
        return json.loads(answer.read())


def _refused(url: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, str]:
    with pytest.raises(HTTPError) as raised:
        _post(url, body, **headers)
    return raised.value.code, json.loads(raised.value.read())["error"]


def test_metadata_of_an_exported_model(url: str) -> None:
    assert _get(f"{url}/v2/models/shapes/ready") == {"name": "shapes", "ready": True}
    metadata = _get(f"{url}/v2/models/shapes")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    assert json.loads(metadata["properties"]["labels"]) == list(SHAPES)


def test_every_datatype_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    kinds, half = write(tmp_path)
    with running(kinds, half) as server, Client(server.url) as client:
        for name in ("kinds", "half"):
            sent = {spec["name"]: sample(spec, rows=3).array for spec in client.metadata(name)["inputs"]}
            for output, array in client.infer(name, sent).items():
                assert array.tolist() == sent[output.replace("_out", "_in")].tolist()
        sent = {spec["name"]: sample(spec).array for spec in client.metadata("kinds")["inputs"]}
        sent["string_in"] = np.array([["grün".encode(), b"a\0b"]], object)
        assert client.infer("kinds", sent)["string_out"].tolist() == sent["string_in"].tolist()
        sent["string_in"] = np.array([[b"\xff", b""]], object)
        with pytest.raises(ServerError, match="400: data of string_in is not text"):
            client.infer("kinds", sent)


def test_raw_request_and_curl_like_gzip(url: str, jpegs: list[Path], model: Path) -> None:
    request = Request(
        f"{url}/v2/models/shapes/infer",
        gzip.compress(jpegs[0].read_bytes()),
        {"Inference-Header-Content-Length": "0", "Content-Encoding": "gzip"},
    )
    with urlopen(request) as answer:
        length = int(answer.headers["Inference-Header-Content-Length"])
        body = answer.read()
    probabilities = np.frombuffer(body[length:], np.float32)
    assert probabilities.max() == pytest.approx(predict(model, jpegs[:1], device="cpu")[0]["probability"], abs=1e-6)


IMAGE = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0] * 12}


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "request is not JSON"),
        (b"[" * 100_000, {}, 400, "request is not JSON"),
        (b"[]", {}, 400, "must be a JSON object with a list of inputs"),
        ({"inputs": []}, {}, 400, "missing input: image"),
        ({"inputs": [3]}, {}, 400, "every input must be an object"),
        ({"inputs": [{**IMAGE, "name": "picture"}]}, {}, 400, "unknown input: 'picture'; shapes has image"),
        ({"inputs": [IMAGE, IMAGE]}, {}, 400, "input given twice"),
        ({"inputs": [{**IMAGE, "shape": [1, -2]}]}, {}, 400, "must be a list of whole numbers"),
        ({"inputs": [{**IMAGE, "shape": [1, 2, 2, 4]}]}, {}, 400, "shape of image: [1, 2, 2, 4]"),
        ({"inputs": [{**IMAGE, "shape": [1, 2, 3, 3]}]}, {}, 400, "12 elements, shape [1, 2, 3, 3] needs 18"),
        ({"inputs": [{**IMAGE, "shape": [4, 3], "data": [0] * 12}]}, {}, 400, "shape of image: [4, 3]"),
        ({"inputs": [{**IMAGE, "shape": [0, 2, 2, 3], "data": []}]}, {}, 400, "no pixels"),
        ({"inputs": [{**IMAGE, "datatype": "FP32"}]}, {}, 400, "must be UINT8 or BYTES"),
        ({"inputs": [{**IMAGE, "datatype": "BYTES", "shape": [1], "data": ["%%"]}]}, {}, 400, "base64"),
        (
            {"inputs": [{**IMAGE, "datatype": "BYTES", "shape": [1], "data": ["aGk="]}]},
            {},
            400,
            "not an image: image 0",
        ),
        ({"inputs": [IMAGE], "outputs": [{"name": "logits"}]}, {}, 400, "unknown output: 'logits'"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 99}}]}, {}, 400, "binary_data_size of image: 99"),
        ({"inputs": [IMAGE], "id": 3}, {}, 400, "id: 3; must be a string"),
        (b"xx", {"Inference_Header_Content_Length": "3"}, 400, "a whole number up to the body's 2"),
        (b"xx", {"Inference_Header_Content_Length": "-1"}, 400, "a whole number"),
        (b"xx", {"Content_Encoding": "gzip"}, 400, "body is not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-9], {"Content_Encoding": "gzip"}, 400, "gzip body is cut off"),
        (b"xx", {"Content_Encoding": "br"}, 415, "gzip, deflate or none"),
        (gzip.compress(bytes(70 * 2**20), mtime=0), {"Content_Encoding": "gzip"}, 413, "request too large"),
    ],
)
def test_malformed_requests_are_told_why(
    body: Any, headers: dict[str, str], status: int, message: str, url: str
) -> None:
    code, error = _refused(f"{url}/v2/models/shapes/infer", body, **headers)
    assert (code, message in error) == (status, True), error


def test_unknown_places(url: str) -> None:
    assert _refused(f"{url}/v2/models/cats/infer", {}) == (404, "unknown model: 'cats'; this server has plain, shapes")
    assert _refused(f"{url}/v3", {})[0] == 404
    assert _refused(f"{url}/v2/health/live", {})[0] == 405


def test_too_large_is_refused_before_it_is_sent(url: str) -> None:
    with closing(HTTPConnection(url.removeprefix("http://"))) as connection:
        connection.putrequest("POST", "/v2/models/shapes/infer")
        connection.putheader("Content-Length", str(65 * 2**20))
        connection.endheaders()
        with connection.getresponse() as answer:
            assert answer.status == 413
            assert "at most 67,108,864 bytes" in json.loads(answer.read())["error"]


def test_many_clients_at_once(url: str, model: Path) -> None:
    images = [draw(shape, seed) for seed in range(4) for shape in SHAPES]
    answers: dict[int, list[float]] = {}

    def ask(row: int) -> None:
        pixels = images[row][None]
        entry = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
        answers[row] = _post(f"{url}/v2/models/shapes/infer", {"inputs": [entry]})["outputs"][0]["data"]

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from zoo.runtime.model import OnnxModel

    expected = OnnxModel(model, device="cpu").of_images(images, ["probabilities"])[0]
    assert np.allclose([answers[row] for row in range(len(images))], expected, atol=1e-6)


def test_a_model_that_answers_otherwise_is_not_served(
    model: Path, tmp_path: Path, zoo_process: Callable[..., Any]
) -> None:
    import onnx

    proto = onnx.load(model)
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.3)).tobytes()
    next(prop for prop in proto.metadata_props if prop.key == ONNX_KEY).value = UNSEALED
    (tmp_path / "other.onnx").write_bytes(seal(proto.SerializeToString()))
    done = zoo_process("serve", tmp_path / "other.onnx", "--port", "0")
    assert done.returncode == 8
    assert "does not give the answers its manifest expects" in done.stderr


def test_port_in_use(url: str, model: Path, zoo: Callable[..., Any]) -> None:
    done = zoo("serve", model, "--port", url.rpartition(":")[2])
    assert done.returncode == 1
    assert "give another --port" in done.stderr
