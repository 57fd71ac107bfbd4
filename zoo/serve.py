"""The verb `serve`: ONNX files behind the Open Inference Protocol."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from numpy.typing import NDArray

from zoo.artifacts.manifest import EXIT, INPUT
from zoo.data.images import check_size, decode_image
from zoo.errors import DataError, ModelError, ZooError
from zoo.progress import Progress
from zoo.runtime.golden import check_golden
from zoo.runtime.model import OnnxModel, TensorInfo
from zoo.runtime.session import Device
from zoo.serving.app import MAX_BODY_BYTES, make_app
from zoo.serving.exits import ExitCounter
from zoo.serving.tensors import ProtocolError, TensorSpec, datatype_of

_DRAIN_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Which files to serve, and where."""

    models: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    device: Device = "auto"
    threads: int | None = None
    max_body: int = MAX_BODY_BYTES


class ServedOnnx:
    """An ONNX file as the server sees it; with a manifest it also takes image files."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self.name = model.name
        self.inputs: Sequence[TensorSpec] = [_spec(model, tensor) for tensor in model.inputs]
        self.outputs: Sequence[TensorSpec] = [_spec(model, tensor) for tensor in model.outputs]
        answers = model.manifest.answers if model.manifest else ()
        self.labels: Mapping[str, Sequence[str]] = {answer.output: answer.labels for answer in answers}
        self.image_input = INPUT if model.manifest else None
        self.exits = _exit_counter(model)

    def infer(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs. Raises ProtocolError for inputs the model refuses."""
        if self.exits is None:
            return self._answer(feeds, outputs)
        *answers, exits = self._answer(feeds, [*outputs, EXIT])
        self.exits.add(exits)
        return answers

    def _answer(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        image = feeds.get(self.image_input) if self.image_input else None
        try:
            if image is not None and image.dtype == object:
                return self._classify_files(image, outputs)
            if image is not None:
                if 0 in image.shape:
                    raise DataError(f"no pixels: {INPUT} of shape {list(image.shape)}; send at least one")
                check_size(image.shape[2], image.shape[1], INPUT)
            return self._model.run(feeds, outputs)
        except DataError as error:
            raise ProtocolError(str(error)) from None
        except ProtocolError:
            raise
        except Exception as error:  # ONNX Runtime refuses, e.g. shapes that do not go together
            raise ProtocolError(f"{self.name} refuses the input: {' '.join(str(error).split()):.300}") from None

    def _classify_files(self, files: NDArray[Any], outputs: Sequence[str]) -> list[NDArray[Any]]:
        if not files.size:
            raise DataError(f"no image files: {INPUT} is empty; send at least one")
        images = [decode_image(content, f"image {row}") for row, content in enumerate(files.ravel())]
        return self._model.of_images(images, outputs)


def load_models(request: ServeRequest, progress: Progress | None = None) -> list[ServedOnnx]:
    """Every model, loaded and checked against the answers its manifest expects.

    `progress` is told where tuned settings beside a model are not used. Raises ModelError for a file that does not
    load or answers otherwise, ZooError where two models share a name.
    """
    loaded: dict[str, ServedOnnx] = {}
    for path in request.models:
        if path.stem in loaded:
            raise ZooError(f"two models named {path.stem!r}; rename one of the files")
        model = OnnxModel(path, device=request.device, threads=request.threads, progress=progress)
        if model.manifest is not None:
            check_golden(model)
        loaded[path.stem] = ServedOnnx(model)
    return list(loaded.values())


def serve(request: ServeRequest, ready: Callable[[str], None], *, progress: Progress | None = None) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what is under way. `ready` gets the URL once it answers.

    Raises ZooError where the port cannot be had, and the errors of `load_models`.
    """
    app = make_app(load_models(request, progress), max_body=request.max_body)
    try:
        family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
        listener = socket.create_server((request.host, request.port), family=family)
    except OSError as error:
        raise ZooError(
            f"cannot listen on {request.host}:{request.port} ({error.strerror}); give another --port"
        ) from None
    host = f"[{request.host}]" if ":" in request.host else request.host
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_DRAIN_SECONDS
    )
    server = _Announcing(config, lambda: ready(f"http://{host}:{listener.getsockname()[1]}"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn's way to say that it has stopped after Ctrl-C
        return
    finally:
        listener.close()


class _Announcing(uvicorn.Server):
    """Tells when it has begun to answer."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def _exit_counter(model: OnnxModel) -> ExitCounter | None:
    cascade = model.manifest.cascade if model.manifest else None
    if cascade is None or cascade["kind"] != "gate":
        return None
    members = cascade["members"]
    return ExitCounter(model.name, [m["backbone"] for m in members], [m["exit_rate"] for m in members])


def _spec(model: OnnxModel, tensor: TensorInfo) -> TensorSpec:
    datatype = datatype_of(tensor.type)
    if datatype is None:
        raise ModelError(f"{model.path} cannot be served: {tensor.name} is {tensor.type}, which the protocol lacks")
    return TensorSpec(tensor.name, datatype, tensor.shape)
