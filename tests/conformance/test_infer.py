"""Inference over REST: whatever form tensors are sent and asked for in, the answer is one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from conformance.rest import Model
from conformance.wire import same

pytestmark = pytest.mark.usefixtures("in_json")


def test_the_answer_is_as_metadata_say(served: Model) -> None:
    reply = served.infer(served.inputs())
    tensors = reply.tensors
    assert reply.json["model_name"] == served.name
    told = {spec["name"]: spec for spec in served.metadata["outputs"]}
    assert sorted(tensor.name for tensor in tensors) == sorted(told)
    for tensor in tensors:
        spec = told[tensor.name]
        assert tensor.datatype == spec["datatype"]
        assert tensor.array.ndim == len(spec["shape"])
        assert all(told in (-1, size) for told, size in zip(spec["shape"], tensor.array.shape, strict=True))
    assert reply.headers["content-type"].partition(";")[0] == "application/json"


def test_a_version_answers_by_its_path(served: Model) -> None:
    versions = served.metadata.get("versions")
    if not versions:
        pytest.skip("the model has no versions")
    body = json.dumps({"inputs": [tensor.to_json() for tensor in served.inputs()]}).encode()
    reply = served.rest.ask("POST", f"{served.path}/versions/{versions[-1]}/infer", body)
    assert same(reply.tensors, served.infer(served.inputs()).tensors)
    assert reply.json["model_version"] == versions[-1]


def test_nested_data_are_flat_data(served: Model) -> None:
    inputs = served.inputs()
    nested = served.ask({"inputs": [tensor.to_json(nested=True) for tensor in inputs]})
    assert same(nested.tensors, served.infer(inputs).tensors)


def test_rows_do_not_know_each_other(served: Model) -> None:
    if any(spec["shape"][:1] != [-1] for spec in [*served.metadata["inputs"], *served.metadata["outputs"]]):
        pytest.skip("the model has no free first axis")
    inputs = served.inputs(rows=2)
    both = served.infer(inputs).tensors
    for number in range(2):
        alone = served.infer([tensor.row(number) for tensor in inputs]).tensors
        assert same([tensor.row(number) for tensor in both], alone)


def test_inputs_may_come_in_any_order(served: Model) -> None:
    inputs = served.inputs()
    assert same(served.infer(inputs[::-1]).tensors, served.infer(inputs).tensors)


def test_only_the_outputs_that_are_asked_for(served: Model) -> None:
    for tensor in served.infer(served.inputs()).tensors:
        assert same(served.infer(served.inputs(), outputs=[{"name": tensor.name}]).tensors, [tensor])


def test_the_id_comes_back(served: Model) -> None:
    assert served.infer(served.inputs(), id="a b/ü").json["id"] == "a b/ü"


def test_parameters_that_are_not_known_change_nothing(served: Model) -> None:
    given = {"text": "a", "number": 3, "flag": True}
    assert same(served.infer(served.inputs(), parameters=given).tensors, served.infer(served.inputs()).tensors)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_request(served: Model, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body = json.dumps({"inputs": [tensor.to_json() for tensor in served.inputs()]}).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    reply = served.rest.ask("POST", f"{served.path}/infer", pack(body), headers)
    if reply.status >= 400:
        pytest.skip(f"compressed requests are not offered: {reply.status}")  # the protocol does not ask for them
    assert same(reply.tensors, served.infer(served.inputs()).tensors)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, deflate", "identity"])
def test_a_compressed_answer_is_asked_for(served: Model, encoding: str) -> None:
    inputs = served.inputs(rows=64)  # servers pack large answers only
    reply = served.ask({"inputs": [tensor.to_json() for tensor in inputs]}, headers={"Accept-Encoding": encoding})
    assert same(reply.tensors, served.infer(inputs).tensors)
    packed = reply.headers.get("content-encoding")
    if packed is None and encoding != "identity":
        pytest.skip("the answer is not compressed, which is allowed")
    assert packed is None or packed in encoding
