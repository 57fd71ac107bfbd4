"""The server under test: any one, by its address, or else our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conformance.rest import Model, Rest

_OURS = ["plain", "shapes", "kinds", "half"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the server is."""

    url: str
    grpc: str | None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that name a server."""
    group = parser.getgroup("conformance", "Open Inference Protocol")
    group.addoption("--target", metavar="URL", help="Server to test; without, zoo serve is started.")
    group.addoption("--target-grpc", metavar="HOST:PORT", help="Where it speaks gRPC.")
    group.addoption("--model", metavar="NAME", action="append", help="A model of it to ask; can be repeated.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Asks each model what is asked of one."""
    if "served" in metafunc.fixturenames:
        names: list[Any] = _OURS
        if metafunc.config.getoption("--target", None):
            nothing = [pytest.param("", marks=pytest.mark.skip("no --model"))]
            names = metafunc.config.getoption("--model") or nothing
        metafunc.parametrize("served", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server under test."""
    url = request.config.getoption("--target", None)
    if url:
        yield Target(url=url, grpc=request.config.getoption("--target-grpc"))
        return
    from conformance.models import write
    from servers import running

    files = [request.getfixturevalue(name) for name in ("tensor_model", "model")]
    with running(*files, *write(tmp_path_factory.mktemp("kinds")), "--grpc-port", "0") as server:
        yield Target(url=server.url, grpc=server.grpc)


@pytest.fixture(scope="session")
def rest(target: Target) -> Rest:
    """The server over REST."""
    return Rest(target.url)


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, rest: Rest) -> Model:
    """A model of the server."""
    reply = rest.get(f"/v2/models/{request.param}")
    assert reply.status == 200, reply
    if not reply.json.get("inputs"):
        pytest.skip(f"the metadata of {request.param} name no inputs, which is allowed, and leaves nothing to ask")
    return Model(rest=rest, name=request.param, metadata=reply.json)


@pytest.fixture
def in_json(served: Model) -> None:
    """The model has no tensors that JSON cannot say."""
    if not served.in_json:
        pytest.skip("the model has tensors without a form in JSON")


@pytest.fixture(scope="session")
def stub(target: Target) -> Iterator[Any]:
    """The server over gRPC."""
    if target.grpc is None:
        pytest.skip("no --target-grpc")
    grpc = pytest.importorskip("grpc")
    messages = pytest.importorskip("tritonclient.grpc")
    with grpc.insecure_channel(target.grpc) as channel:
        yield messages.service_pb2_grpc.GRPCInferenceServiceStub(channel)
