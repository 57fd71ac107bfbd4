"""The same over gRPC, and that both say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from conformance.rest import Model, Rest
from conformance.wire import CONTENTS, Tensor, same

grpc = pytest.importorskip("grpc")
messages = pytest.importorskip("tritonclient.grpc").service_pb2

_OF_THE_CLIENT = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}


def _request(served: Model, inputs: Sequence[Tensor], *, raw: bool = True, **more: Any) -> Any:
    request = messages.ModelInferRequest(model_name=served.name, **more)
    for tensor in inputs:
        entry = request.inputs.add(**tensor.head)
        if raw:
            request.raw_input_contents.append(tensor.to_raw())
        else:
            getattr(entry.contents, CONTENTS[tensor.datatype]).extend(tensor.array.ravel().tolist())
    return request


def _tensors(answer: Any) -> list[Tensor]:
    raw = list(answer.raw_output_contents)
    assert len(raw) in (0, len(answer.outputs))
    found = []
    for number, output in enumerate(answer.outputs):
        head = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if raw:
            found.append(Tensor.of(head, raw=raw[number]))
        else:
            found.append(Tensor.of(head, data=list(getattr(output.contents, CONTENTS[output.datatype]))))
    return found


def test_health_and_server_metadata(stub: Any, rest: Rest) -> None:
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    metadata = stub.ServerMetadata(messages.ServerMetadataRequest())
    told = rest.get("/v2").json
    assert (metadata.name, metadata.version) == (told["name"], told["version"])
    assert list(metadata.extensions) == told["extensions"]


def test_model_metadata(stub: Any, served: Model) -> None:
    for version in ["", *served.metadata.get("versions", [])]:
        assert stub.ModelReady(messages.ModelReadyRequest(name=served.name, version=version)).ready
        metadata = stub.ModelMetadata(messages.ModelMetadataRequest(name=served.name, version=version))
        assert metadata.name == served.name
        for tensors, told in ((metadata.inputs, "inputs"), (metadata.outputs, "outputs")):
            assert [(each.name, each.datatype, list(each.shape)) for each in tensors] == [
                (each["name"], each["datatype"], each["shape"]) for each in served.metadata[told]
            ]


def test_unknown_models(stub: Any) -> None:
    try:
        ready = stub.ModelReady(messages.ModelReadyRequest(name="no-such-model")).ready
    except grpc.RpcError as error:  # either is allowed
        ready = error.code().name not in _OF_THE_CLIENT
    assert not ready
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelMetadata(messages.ModelMetadataRequest(name="no-such-model"))
    assert caught.value.code().name in _OF_THE_CLIENT


def test_raw_tensors_say_what_rest_says(stub: Any, served: Model) -> None:
    answer = stub.ModelInfer(_request(served, served.inputs(), id="7"))
    assert (answer.model_name, answer.id) == (served.name, "7")
    assert same(_tensors(answer), served.infer(served.inputs()).tensors)


def test_typed_contents_say_the_same(stub: Any, served: Model) -> None:
    if not served.in_json:
        pytest.skip("FP16 has no typed contents")
    typed = _tensors(stub.ModelInfer(_request(served, served.inputs(), raw=False)))
    assert same(typed, _tensors(stub.ModelInfer(_request(served, served.inputs()))))


def test_only_the_outputs_that_are_asked_for(stub: Any, served: Model) -> None:
    for tensor in _tensors(stub.ModelInfer(_request(served, served.inputs()))):
        answer = stub.ModelInfer(_request(served, served.inputs(), outputs=[{"name": tensor.name}]))
        assert same(_tensors(answer), [tensor])


def test_parameters_that_are_not_known_change_nothing(stub: Any, served: Model) -> None:
    given = {"text": {"string_param": "a"}, "number": {"int64_param": 3}, "flag": {"bool_param": True}}
    answer = stub.ModelInfer(_request(served, served.inputs(), parameters=given))
    assert same(_tensors(answer), _tensors(stub.ModelInfer(_request(served, served.inputs()))))


def _unknown_model(request: Any) -> None:
    request.model_name = "no-such-model"


def _unknown_version(request: Any) -> None:
    request.model_version = "99999"


def _unknown_input(request: Any) -> None:
    request.inputs[0].name = "no-such-input"


def _unknown_output(request: Any) -> None:
    request.outputs.add(name="no-such-output")


def _unknown_datatype(request: Any) -> None:
    request.inputs[0].datatype = "FP33"


def _no_input(request: Any) -> None:
    del request.inputs[:], request.raw_input_contents[:]


def _another_shape(request: Any) -> None:
    request.inputs[0].shape.insert(0, 1)


def _cut_off(request: Any) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def _too_long(request: Any) -> None:
    request.raw_input_contents[0] += b"\0"


def _one_tensor_missing(request: Any) -> None:
    del request.raw_input_contents[-1]


WRONG = (
    *(_unknown_model, _unknown_version, _unknown_input, _unknown_output, _unknown_datatype),
    *(_no_input, _another_shape, _cut_off, _too_long, _one_tensor_missing),
)


def _name(spoil: Callable[[Any], None]) -> str:
    return spoil.__name__.strip("_")


@pytest.mark.parametrize("spoil", WRONG, ids=_name)
def test_errors_say_why_and_that_it_is_the_clients_fault(
    stub: Any, served: Model, spoil: Callable[[Any], None]
) -> None:
    if spoil is _unknown_version and not served.metadata.get("versions"):
        pytest.skip("the model has no versions")
    request = _request(served, served.inputs())
    spoil(request)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.details()
    assert caught.value.code().name in _OF_THE_CLIENT


def test_a_stream_answers_in_order_and_survives_an_error(stub: Any, served: Model) -> None:
    """ModelStreamInfer, which Triton has beside the protocol."""

    def ask() -> Iterator[Any]:
        for number in range(20):
            request = _request(served, served.inputs(), id=str(number))
            if number == 10:
                _unknown_input(request)
            yield request

    try:
        answers = list(stub.ModelStreamInfer(ask()))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        pytest.skip("ModelStreamInfer is not offered")
    if answers[0].error_message == served.name:  # the first field of ModelInferResponse
        pytest.skip("ModelStreamInfer is another one: it answers with ModelInferResponse")
    expected = served.infer(served.inputs()).tensors
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(20)]
    for number, answer in enumerate(answers):
        assert bool(answer.error_message) == (number == 10)
        assert answer.error_message or same(_tensors(answer.infer_response), expected)
