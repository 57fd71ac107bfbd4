"""The clients of the package `kserve`, as they are, against a server of the models of `models.py`.

    python kserve_client.py http://127.0.0.1:8000 127.0.0.1:8001

They have a virtual environment of their own: `kserve` needs an older protobuf than tritonclient here is used with, and
registers messages of the same names. Ends with an AssertionError where an answer is not what was sent.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable

import numpy as np
from grpc import RpcError
from httpx import HTTPStatusError
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

logging.disable(logging.CRITICAL)  # they log the errors that are asked for
_BITS = (8, 16, 32, 64)
KINDS = {
    "bool": np.bool_,
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in _BITS},
    "float": np.float32,
    "double": np.float64,
    "string": np.object_,
}
PROTOCOL = {"bool": "BOOL", "float": "FP32", "double": "FP64", "string": "BYTES"}


def request(*, binary: bool, model: str = "kinds", asked: list[str] | None = None) -> InferRequest:
    """Two rows of each datatype."""
    inputs = []
    for kind, dtype in KINDS.items():
        tensor = InferInput(f"{kind}_in", [2, 2], PROTOCOL.get(kind, kind.upper()))
        tensor.set_data_from_numpy(sent(dtype), binary_data=binary)
        inputs.append(tensor)
    outputs = [RequestedOutput(name, {"binary_data": binary}) for name in asked or []]
    parameters = {"binary_data_output": binary}
    return InferRequest(
        model_name=model, infer_inputs=inputs, request_outputs=outputs, request_id="7", parameters=parameters
    )


def sent(dtype: np.dtype | type) -> np.ndarray:
    """What stands in a tensor."""
    numbers = np.arange(4).reshape(2, 2)
    return np.array([[b"0", b"1"], [b"2", b"3"]], object) if dtype is np.object_ else (numbers % 2).astype(dtype)


def check(answer: object, asked: list[str] | None = None) -> None:
    """Compares an answer with what was sent."""
    assert answer.id == "7", answer.id
    assert [output.name for output in answer.outputs] == (asked or [f"{kind}_out" for kind in KINDS])
    for output in answer.outputs:
        found, expected = output.as_numpy(), sent(KINDS[output.name.removesuffix("_out")])
        if found.dtype == object:
            found = np.array([each.encode() if isinstance(each, str) else each for each in found.ravel()], object)
        assert found.reshape(2, 2).tolist() == expected.tolist(), (output.name, found)


async def refusal(asked: Awaitable[object]) -> Exception:
    """The error that an answer must be."""
    try:
        await asked
    except (HTTPStatusError, RpcError) as error:
        return error
    raise AssertionError("an unknown model answers")


async def over_rest(url: str) -> None:
    """All calls of the REST client but `explain`, which is of the older protocol."""
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "kinds")
        assert not await client.is_model_ready(url, "other")
        for binary in (False, True):
            check(await client.infer(url, request(binary=binary), model_name="kinds"))
            asked = ["int64_out", "string_out"]
            check(await client.infer(url, request(binary=binary, asked=asked), model_name="kinds"), asked)
        error = await refusal(client.infer(url, request(binary=True), model_name="other"))
        assert isinstance(error, HTTPStatusError)
        assert error.response.status_code == 404


async def over_grpc(address: str) -> None:
    """All calls of the gRPC client."""
    async with InferenceGRPCClient(address, retries=0) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("kinds")
        assert not await client.is_model_ready("other")
        for binary in (False, True):  # typed and raw contents
            check(await client.infer(request(binary=binary)))
        error = await refusal(client.infer(request(binary=True, model="other")))
        assert isinstance(error, RpcError)
        assert error.code().name == "NOT_FOUND"


async def main(url: str, address: str) -> None:
    """REST, then gRPC."""
    await over_rest(url)
    await over_grpc(address)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    sys.stdout.write("the clients of kserve have the answers they expect\n")
