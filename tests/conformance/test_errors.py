"""What is wrong is told: a status of errors and {"error": why}."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conformance.rest import Model, Reply, Rest


def _first(**changed: Any) -> Callable[[Model], Reply]:
    """A request with a first input of which something is changed."""

    def ask(served: Model) -> Reply:
        inputs = [tensor.to_json() for tensor in served.inputs()]
        return served.ask({"inputs": [{**inputs[0], **changed}, *inputs[1:]]})

    return ask


def _body(body: bytes) -> Callable[[Model], Reply]:
    return lambda served: served.rest.ask("POST", f"{served.path}/infer", body, {"Content-Type": "application/json"})


def _other_datatype(served: Model) -> Reply:
    other = "FP32" if served.metadata["inputs"][0]["datatype"] == "INT64" else "INT64"
    return _first(datatype=other)(served)


def _one_element_less(served: Model) -> Reply:
    return _first(data=served.inputs()[0].to_json()["data"][1:])(served)


def _one_axis_more(served: Model) -> Reply:
    return _first(shape=[1, *served.inputs()[0].array.shape])(served)


def _twice(served: Model) -> Reply:
    inputs = [tensor.to_json() for tensor in served.inputs()]
    return served.ask({"inputs": [*inputs, inputs[0]]})


pytestmark = pytest.mark.usefixtures("in_json")
WRONG: dict[str, Callable[[Model], Reply]] = {
    "no JSON": _body(b"{"),
    "no body": _body(b""),
    "no object": _body(b"[]"),
    "no inputs": _body(b"{}"),
    "no input": _body(b'{"inputs": []}'),
    "an input that is none": _body(b'{"inputs": [3]}'),
    "an input twice": _twice,
    "an unknown input": _first(name="no-such-input"),
    "an unknown output": lambda served: served.infer(served.inputs(), outputs=[{"name": "no-such-output"}]),
    "an unknown datatype": _first(datatype="FP33"),
    "another datatype": _other_datatype,
    "a negative shape": _first(shape=[-1]),
    "a shape that is none": _first(shape="x"),
    "another shape": _one_axis_more,
    "fewer elements than the shape has": _one_element_less,
    "no data": _first(data=None),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_say_why(served: Model, what: str) -> None:
    assert WRONG[what](served).error


@pytest.mark.parametrize("what", WRONG)
def test_a_fault_of_the_client_is_told_as_such(served: Model, what: str) -> None:
    """RFC 9110, 15.5 and 15.6; the protocol itself says "typically 400"."""
    assert 400 <= WRONG[what](served).status < 500


def test_unknown_models_and_versions(rest: Rest, served: Model) -> None:
    body = json.dumps({"inputs": [tensor.to_json() for tensor in served.inputs()]}).encode()
    headers = {"Content-Type": "application/json"}
    unknown = rest.ask("POST", "/v2/models/no-such-model/infer", body, headers)
    assert unknown.error
    assert unknown.status < 500
    if served.metadata.get("versions"):
        assert rest.ask("POST", f"{served.path}/versions/99999/infer", body, headers).error


def test_another_method(rest: Rest, served: Model) -> None:
    assert rest.get(f"{served.path}/infer").status in (404, 405)
    assert rest.ask("POST", "/v2/health/live", b"").status in (404, 405)
