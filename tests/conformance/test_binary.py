"""The extension `binary_tensor_data`, where a server has it: bytes of tensors behind the JSON."""

from __future__ import annotations

import gzip
import json

import pytest
from conformance.rest import BINARY_OUTPUT, Model, Rest
from conformance.wire import same


@pytest.fixture(autouse=True)
def _offered(rest: Rest) -> None:
    if "binary_tensor_data" not in rest.extensions():
        pytest.skip("the server has no extension binary_tensor_data")


def test_binary_in_and_out(served: Model) -> None:
    """All four ways give one answer."""
    inputs = served.inputs()
    answers = [served.infer_binary(inputs, **BINARY_OUTPUT)]
    assert all("binary_data_size" in entry["parameters"] for entry in answers[0].json["outputs"])
    assert answers[0].headers["content-type"] == "application/octet-stream"
    if served.in_json:
        answers += [served.infer_binary(inputs), served.infer(inputs, **BINARY_OUTPUT), served.infer(inputs)]
    assert all(same(answer.tensors, answers[0].tensors) for answer in answers)


@pytest.mark.usefixtures("in_json")
def test_each_output_in_its_own_form(served: Model) -> None:
    """What an output says goes before what the request says."""
    outputs = [{"name": name, "parameters": {"binary_data": n % 2 == 0}} for n, name in enumerate(served.outputs)]
    reply = served.infer(served.inputs(), outputs=outputs, **BINARY_OUTPUT)
    assert same(reply.tensors, served.infer(served.inputs()).tensors)
    is_binary = {entry["name"]: "binary_data_size" in entry.get("parameters", {}) for entry in reply.json["outputs"]}
    assert is_binary == {output["name"]: output["parameters"]["binary_data"] for output in outputs}


@pytest.mark.usefixtures("in_json")
def test_some_inputs_in_json_and_some_in_binary(served: Model) -> None:
    entries, tail = [], b""
    for number, tensor in enumerate(served.inputs()):
        entry, raw = (tensor.to_json(), b"") if number % 2 else tensor.to_binary()
        entries.append(entry)
        tail += raw
    assert same(served.ask({"inputs": entries}, tail).tensors, served.infer(served.inputs()).tensors)


def test_a_compressed_request_tells_the_length_of_its_plain_json(served: Model) -> None:
    entries, tails = zip(*(tensor.to_binary() for tensor in served.inputs()), strict=True)
    text = json.dumps({"inputs": list(entries), **BINARY_OUTPUT}).encode()
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(text))}
    reply = served.rest.ask("POST", f"{served.path}/infer", gzip.compress(text + b"".join(tails)), headers)
    if reply.status in (400, 415) and "ncoding" in reply.error:
        pytest.skip(f"compressed requests are not offered: {reply.error}")
    assert same(reply.tensors, served.infer(served.inputs()).tensors)


def test_a_body_of_nothing_but_a_tensor(served: Model) -> None:
    """A header length of 0: the only input, a batch of one, with all outputs in binary."""
    if len(served.metadata["inputs"]) != 1 or served.metadata["inputs"][0]["shape"].count(-1) > 1:
        pytest.skip("the model has several inputs, or several free axes")
    [tensor] = served.inputs()
    headers = {"Inference-Header-Content-Length": "0"}
    reply = served.rest.ask("POST", f"{served.path}/infer", tensor.to_raw(), headers)
    assert same(reply.tensors, served.infer([tensor]).tensors)


@pytest.mark.parametrize("change", [-1, 1])
def test_too_few_and_too_many_bytes(served: Model, change: int) -> None:
    entries, tails = zip(*(tensor.to_binary() for tensor in served.inputs()), strict=True)
    tail = (b"".join(tails) + b"\0")[: len(b"".join(tails)) + change]
    reply = served.ask({"inputs": list(entries)}, tail)
    assert reply.error
    assert reply.status < 500


def test_a_size_that_does_not_fit_the_shape(served: Model) -> None:
    entries, tails = zip(*(tensor.to_binary() for tensor in served.inputs()), strict=True)
    entries[0]["shape"] = [size + 1 for size in entries[0]["shape"]]
    assert served.ask({"inputs": list(entries)}, b"".join(tails)).error


@pytest.mark.parametrize("length", ["999999999", "-1", "abc"])
def test_a_header_length_that_is_none(served: Model, length: str) -> None:
    body = json.dumps({"inputs": [tensor.to_binary()[0] for tensor in served.inputs()]}).encode()
    headers = {"Inference-Header-Content-Length": length}
    assert served.rest.ask("POST", f"{served.path}/infer", body, headers).error
