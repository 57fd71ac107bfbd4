"""The client against real servers, and against sockets that behave as servers may."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import SHAPES, draw
from servers import Start

from zoo.client import Client
from zoo.errors import ServerError, UsageError
from zoo.predict import predict

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def _answering(connections: Sequence[Sequence[bytes]]) -> Iterator[tuple[str, list[int]]]:
    """A listener that gives each connection its answers, one per request, and closes it behind the last. What it hands
    out is its address, and how many requests came."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = [0]

    def run() -> None:
        for answers in connections:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    asked[0] += 1
                    connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", asked
    thread.join(timeout=30)
    listener.close()
    assert not thread.is_alive()


def test_tensors_and_labels_are_those_of_the_model(
    start: Start, model: Path, tensor_model: Path, dataset: Path
) -> None:
    file = min((dataset / "test").rglob("*.jpg"))
    with Client(start(model, tensor_model).url) as client:
        assert client.ready()
        assert client.models() == ["plain", "shapes"]
        assert client.metadata("plain")["platform"] == "onnx_onnxv1"

        feeds = {"a": np.array([[1, 2, 3]], np.float32), "b": np.array([[4, 5, 6]], ">f4")}
        answer = client.infer("plain", feeds)
        assert answer["sum"].tolist() == [[5, 7, 9]]
        assert answer["product"].tolist() == [[4, 10, 18]]
        assert list(client.infer("plain", feeds, ["product"])) == ["product"]

        labels = client.predict(file, top=2)
        expected = predict(model, [file], device="cpu")[0]
        assert labels[0]["label"] == expected["label"]
        assert labels[0]["probability"] == pytest.approx(expected["probability"], abs=1e-4)
        assert len(labels) == 2
        assert client.predict(file.read_bytes(), "shapes") == client.predict(str(file))
        assert {each["label"] for each in client.predict(draw(SHAPES[0], 0), top=3)} == set(SHAPES)

        probabilities = client.infer("shapes", {"image": np.array([file.read_bytes()] * 2, object)})["probabilities"]
        assert probabilities.shape == (2, 3)
        assert probabilities[1].max() == pytest.approx(expected["probability"], abs=1e-4)


def test_refusals_say_what_to_do(start: Start, tensor_model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    url = start(tensor_model, "--api-keys", keys).url
    with Client(url) as client:
        assert client.ready()
        with pytest.raises(ServerError, match=r"401: .*; give the API key") as raised:
            client.metadata("plain")
        assert raised.value.status == 401
    with Client(url, api_key="secret") as client:
        with pytest.raises(ServerError, match=r"404: .*; see the name"):
            client.metadata("nothing")
        with pytest.raises(ServerError, match=r"400: missing input: b; change the request"):
            client.infer("plain", {"a": np.zeros((1, 3), np.float32)})
        with pytest.raises(UsageError, match=r"complex64, which the protocol does not have"):
            client.infer("plain", {"a": np.zeros((1, 3), np.complex64)})
        with pytest.raises(UsageError, match=r"not an image: float64 \[3\]"):
            client.predict(np.zeros(3))


def test_an_address_is_one() -> None:
    for wrong in ("ftp://host", "http://", "http://host:port", "http://host?x=1", ""):
        with pytest.raises(UsageError, match="not the address of a server"):
            Client(wrong)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = f"127.0.0.1:{listener.getsockname()[1]}"
    with Client(free) as client:
        assert not client.ready()
        with pytest.raises(ServerError, match=rf"cannot be reached: http://{free} \(.*refused"):
            client.metadata("m")


@pytest.mark.parametrize(
    ("connections", "asked"),
    [
        ([[READY, b""], [READY]], 3),  # closed while the second request was on its way
        ([[BUSY, BUSY, READY, READY]], 4),
    ],
)
def test_what_was_not_answered_is_asked_again(connections: list[list[bytes]], asked: int) -> None:
    with _answering(connections) as (url, seen), Client(url) as client:
        assert client.metadata("m") == {}
        assert client.metadata("m") == {}
    assert seen == [asked]


@pytest.mark.parametrize(
    ("connections", "message"),
    [
        ([[BUSY] * 4], "429: nothing more; send less often"),
        ([[BUSY.replace(b"After: 0", b"After: 60")]], "429: nothing more"),
        ([[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]], "cannot be reached"),
        ([[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"]], "not an answer of the Open Inference Protocol"),
    ],
)
def test_it_gives_up_in_words(connections: list[list[bytes]], message: str) -> None:
    with _answering(connections) as (url, seen), Client(url) as client, pytest.raises(ServerError, match=message):
        client.metadata("m")
    assert seen == [len(connections[0])]


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.2) as client, pytest.raises(ServerError, match=r"no answer within 0.2 s"):
            client.metadata("m")


def test_a_server_without_binary_tensors_is_sent_json() -> None:
    def answer(text: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)

    output = b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [2], "data": [1, 2]}]}'
    with _answering([[answer(b'{"extensions": []}'), answer(output)]]) as (url, _), Client(url) as client:
        found = client.infer("m", {"x": np.array(["text"])})
    assert found["y"].tolist() == [1, 2]
    assert found["y"].dtype == np.int64


def test_it_needs_neither_torch_nor_onnxruntime() -> None:
    code = "import zoo.client, zoo.load.run, sys; assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
