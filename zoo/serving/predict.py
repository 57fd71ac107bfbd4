"""`POST /predict`: an image in, labels out, for those who do not want to know a protocol."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, create_form_parser

from zoo.artifacts.manifest import EXIT, OUTPUT
from zoo.serving.http import Request, Response
from zoo.serving.inference import Inference
from zoo.serving.models import Models, Served
from zoo.serving.protocol import Head, InferRequest, WantedOutput
from zoo.serving.tensors import ProtocolError

# What is wrong with a form is told to the client; its log is for those who write parsers.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

_TOP = 5
_FILES = 64
"""Images of one request at most."""


class Predict:
    """Answers with labels what is asked with images."""

    def __init__(self, models: Models, inference: Inference) -> None:
        self._models = models
        self._inference = inference

    def find(self, request: Request) -> Served:
        """The model `?model=NAME` asks for; without, the only one that takes images.

        Raises ProtocolError where there is none, or more than one.
        """
        name = _query(request, "model")
        if name is not None:
            served = self._models.find(name)
            if served.model.image_input is None or not served.model.labels:
                raise ProtocolError(f"{name} takes no images: it has no labels; ask POST /v2/models/{name}/infer")
            return served
        able = sorted({served.model.name for served in self._models if served.model.image_input is not None})
        if len(able) != 1:
            raise ProtocolError(f"which model? ?model= one of: {', '.join(able) or '(none here takes images)'}")
        return self._models.find(able[0])

    async def __call__(self, request: Request, served: Served) -> Response:
        """The labels of one or several images. Raises ProtocolError for what are none."""
        count = _query(request, "top") or str(_TOP)
        if not count.isdigit() or not 0 < int(count) <= 1000:
            raise ProtocolError(f"top: {count!r:.40}; how many labels, from 1 to 1000")
        files = await self._inference.read(served, request.received, lambda: read_images(request))
        model = served.model
        image = model.image_input
        assert image is not None
        content = np.empty(len(files), object)
        content[:] = files
        names = [*model.labels, *([EXIT] if model.exits is not None else [])]
        head = Head((), tuple(WantedOutput(name, binary=True) for name in names))
        answers = await self._inference.ask(served, InferRequest(head, {image: content}), request.received)
        own, *heads = [
            [_describe(row, labels, int(count)) for row in found]
            for found, labels in zip(answers, model.labels.values(), strict=False)
        ]
        predictions: list[dict[str, Any]] = own
        for output, found in zip(list(model.labels)[1:], heads, strict=True):
            for prediction, said in zip(predictions, found, strict=True):
                prediction.setdefault("heads", {})[output.removeprefix(f"{OUTPUT}_")] = said
        if model.exits is not None:
            for prediction, member in zip(predictions, answers[-1].tolist(), strict=True):
                prediction["exit"] = model.exits.members[member]
        seconds = monotonic() - request.received
        served.metrics.answered(200, seconds)
        return Response.json(
            {
                "model": model.name,
                "version": model.version,
                "predictions": predictions,
                "milliseconds": round(1e3 * seconds, 3),
            }
        )


def read_images(request: Request) -> list[bytes]:
    """The image files in a body: the body itself, the files of a form, or base64 in JSON, `{"image": ...}` or
    `{"images": [...]}`. Raises ProtocolError where there are none, or too many."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = _of_form(request)
    elif kind == "application/json":
        files = _of_json(request.body)
    else:
        files = [request.body] if request.body else []
    if not 0 < len(files) <= _FILES:
        raise ProtocolError(f"{len(files)} images; send 1 to {_FILES}, as the body, in a form, or base64 in JSON")
    return files


def _of_form(request: Request) -> list[bytes]:
    files: list[bytes] = []

    def take(file: File) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    headers = {"Content-Type": request.headers[b"content-type"]}
    # All in memory, where the limit of the body holds: a server need not be able to write.
    config = {"MAX_MEMORY_FILE_SIZE": len(request.body) + 1, "MAX_BODY_SIZE": len(request.body) + 1}
    try:
        parser = create_form_parser(headers, None, take, config)
        parser.write(request.body)
        parser.finalize()
    except (FormParserError, ValueError, UnicodeDecodeError) as error:
        raise ProtocolError(f"form cannot be read: {error}") from None
    return files


def _of_json(body: bytes) -> list[bytes]:
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise ProtocolError(f"request is not JSON: {error}") from None
    texts = value.get("images", [value.get("image")]) if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ProtocolError('request must be {"image": "BASE64"} or {"images": ["BASE64", ...]}')
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise ProtocolError("image is not base64") from None


def _describe(row: Any, labels: Sequence[str], count: int) -> dict[str, Any]:
    best = np.argsort(-row, kind="stable")[:count].tolist()
    top = [{"label": labels[number], "probability": float(row[number])} for number in best]
    return {**top[0], "top": top}


def _query(request: Request, name: str) -> str | None:
    return parse_qs(request.query).get(name, [None])[-1]
