"""Health and metadata over REST."""

from __future__ import annotations

import pytest
from conformance.rest import Model, Rest
from conformance.wire import BYTES, NUMPY


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health(rest: Rest, path: str) -> None:
    assert rest.get(path).status == 200


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2"])
def test_head_is_get_without_a_body(rest: Rest, path: str) -> None:
    """RFC 9110, 9.3.2; the protocol itself names GET only."""
    reply = rest.ask("HEAD", path)
    if reply.status in (404, 405):
        pytest.skip(f"HEAD is not offered: {reply.status}")
    assert reply.status == rest.get(path).status
    assert reply.body == b""


def test_server_metadata(rest: Rest) -> None:
    value = rest.get("/v2").json
    assert isinstance(value["name"], str)
    assert isinstance(value["version"], str)
    assert all(isinstance(each, str) for each in value["extensions"])


def test_model_metadata(served: Model) -> None:
    value = served.metadata
    assert value["name"] == served.name
    assert isinstance(value["platform"], str)
    assert all(isinstance(each, str) for each in value.get("versions", []))
    for tensor in [*value["inputs"], *value["outputs"]]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in {*NUMPY, BYTES, "BF16"}
        assert all(type(size) is int and size >= -1 for size in tensor["shape"])


def test_a_model_is_ready_and_so_is_its_version(rest: Rest, served: Model) -> None:
    assert rest.get(f"{served.path}/ready").status == 200
    for version in served.metadata.get("versions", []):
        assert rest.get(f"{served.path}/versions/{version}/ready").status == 200
        assert rest.get(f"{served.path}/versions/{version}").json == served.metadata


def test_unknown_models_and_versions(rest: Rest, served: Model) -> None:
    assert rest.get("/v2/models/no-such-model/ready").status >= 400
    assert rest.get("/v2/models/no-such-model").error
    if served.metadata.get("versions"):
        assert rest.get(f"{served.path}/versions/99999/ready").status >= 400
        assert rest.get(f"{served.path}/versions/99999").error
