"""One client of one server, on one connection."""

from __future__ import annotations

import io
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from zoo.client.address import Address, model_path, parse_address
from zoo.client.wire import HEAD_LENGTH, infer_answer, infer_request
from zoo.errors import ServerError, UsageError
from zoo.serving.tensors import ProtocolError

_TRIES = 4
"""Of a request that is answered with 429."""
_LONGEST_WAIT = 10.0
"""Seconds. A server that asks for more is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Asks a server of the Open Inference Protocol v2. It keeps one connection: give each thread a client of its own.

    A request that the server is too busy for (429) is asked again, three times at most, after the time that it names.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout` is the seconds to wait for the server to take or give anything; `tls` is how to check one of https,
        by default against the certificates this system trusts.

        Raises UsageError for what is no address. Nothing is sent yet.
        """
        self.address: Address = parse_address(url, api_key=api_key, tls=tls)
        self._timeout = timeout
        self._connection: HTTPConnection | None = None
        self._binary: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ready(self) -> bool:
        """Whether the server answers, and says that it is ready."""
        try:
            return self._send("GET", "/v2/health/ready").status == 200
        except ServerError:
            return False

    def metadata(self, model: str) -> dict[str, Any]:
        """Inputs, outputs and versions of a model. Raises ServerError, also for a model that is not there."""
        found: dict[str, Any] = self._json("GET", model_path(model))
        return found

    def models(self) -> list[str]:
        """The names of the models of a `zoo serve`. Raises ServerError, also for other servers."""
        try:
            return sorted({model["name"] for model in self._json("GET", "/models")["models"]})
        except (KeyError, TypeError):
            raise self._not_ours("no list of models") from None

    @property
    def binary(self) -> bool:
        """Whether the server takes binary tensors; it is asked once. Raises ServerError."""
        if self._binary is None:
            self._binary = "binary_tensor_data" in self._json("GET", "/v2").get("extensions", ())
        return self._binary

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The outputs of a model, all of them or those named, as read-only arrays by name.

        Image files go to an input of images as an array of bytes [N]. Raises UsageError for an array that the protocol
        has no datatype for, ServerError where there is no answer.
        """
        message = infer_request(inputs, outputs, binary=self.binary)
        answer = self._ask("POST", f"{model_path(model)}/infer", message.body, message.headers)
        try:
            return infer_answer(answer.body, answer.headers.get(HEAD_LENGTH.lower()))
        except (ValueError, KeyError, TypeError, ProtocolError) as error:
            raise self._not_ours(error) from None

    def predict(
        self, image: Path | str | bytes | NDArray[np.uint8], model: str | None = None, top: int = 5
    ) -> list[dict[str, Any]]:
        """The best labels of one image, `[{"label": ..., "probability": ...}, ...]`, from a `zoo serve`.

        The image is a file, the bytes of one, or pixels [H, W, 3] of uint8. A server of several models of images needs
        the name of one. Raises UsageError for what is no image, ServerError where there is no answer.
        """
        query = {"top": str(top)} | ({} if model is None else {"model": model})
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._json("POST", f"/predict?{urlencode(query)}", _image_file(image), headers)
        top_labels: list[dict[str, Any]] = answer["predictions"][0]["top"]
        return top_labels

    def _json(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer = self._ask(method, path, body, headers)
        try:
            value = json.loads(answer.body)
        except ValueError as error:
            raise self._not_ours(error) from None
        if not isinstance(value, dict):
            raise self._not_ours("no JSON object")
        return value

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        """The answer with status 200. Raises ServerError for every other one."""
        for tried in range(1, _TRIES + 1):
            answer = self._send(method, path, body, headers)
            wait = _retry_after(answer)
            if answer.status != 429 or tried == _TRIES or wait > _LONGEST_WAIT:
                break
            time.sleep(wait)
        if answer.status != 200:
            raise ServerError(f"{self.address.url} answers {_words(answer)}", status=answer.status)
        return answer

    def _send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        try:
            if self._connection is not None:
                # A server may close a connection at rest at any time, also while the next request is on its way.
                with suppress(ConnectionResetError, BrokenPipeError, RemoteDisconnected):
                    return self._exchange(self._connection, method, path, body=body, headers=headers)
                self.close()
            self._connection = self._open()
            return self._exchange(self._connection, method, path, body=body, headers=headers)
        except TimeoutError:
            self.close()
            raise ServerError(
                f"no answer within {self._timeout:g} s: {self.address.url}{path}; see whether the server is busy, or "
                "give a longer timeout"
            ) from None
        except (OSError, HTTPException) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise ServerError(
                f"server cannot be reached: {self.address.url} ({reason}); see that it runs, and the address is right"
            ) from None

    def _open(self) -> HTTPConnection:
        host, port, tls = self.address.host, self.address.port, self.address.tls
        if tls is None:
            return HTTPConnection(host, port, timeout=self._timeout)
        return HTTPSConnection(host, port, timeout=self._timeout, context=tls)

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> _Answer:
        with suppress(BrokenPipeError, ConnectionResetError):
            # Who refuses a large body may close before it is sent, and the reason is there to be read.
            connection.request(method, self.address.base + path, body, {**self.address.headers, **(headers or {})})
        response = connection.getresponse()
        try:
            content = response.read()
        except ConnectionResetError as error:  # behind the head of an answer: not to be asked again
            raise HTTPException(f"the answer is cut off: {error}") from None
        found = {name.lower(): value for name, value in response.getheaders()}
        return _Answer(status=response.status, headers=found, body=content)

    def _not_ours(self, why: object) -> ServerError:
        return ServerError(
            f"not an answer of the Open Inference Protocol v2: {why}; see that {self.address.url} speaks it"
        )


_ADVICE = {
    401: "give the API key",
    403: "give an API key that may do this",
    404: "see the name of the model, and that the address is the server's",
    413: "send less at a time",
    429: "send less often, or raise --max-queue of the server",
    503: "try again later",
    504: "send less often, or raise --timeout of the server",
}


def _words(answer: _Answer) -> str:
    """What a refusal says, and what to do."""
    try:
        text = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.body[:200].decode(errors="replace").strip() or "nothing more"
    advice = _ADVICE.get(answer.status, "change the request" if answer.status < 500 else "see the server's log")
    return f"{answer.status}: {text}; {advice}"


def _retry_after(answer: _Answer) -> float:
    """Seconds; of a server that names none, or a date, one."""
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 1.0


def _image_file(image: Path | str | bytes | NDArray[np.uint8]) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"not an image: {image.dtype} {list(image.shape)}; give pixels [H, W, 3] of uint8")
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "png", compress_level=1)  # loses nothing
        return file.getvalue()
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UsageError(f"image cannot be read: {image} ({error.strerror}); give an image file") from None
