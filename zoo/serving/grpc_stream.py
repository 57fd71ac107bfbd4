"""ModelStreamInfer: many requests on one call, answered in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from zoo.serving.grpc_calls import Context, internal_error, parse, serialize
from zoo.serving.grpc_messages import message
from zoo.serving.tensors import ProtocolError

_AHEAD = 64
"""Requests of a stream that are under way at once; the client is not read faster than that."""

Infer = Callable[[Any, Context], Awaitable[Any]]


class InferStreams:
    """Answers requests on streams. One that cannot be answered is told so on its stream, which goes on."""

    def __init__(self, infer: Infer, stopping: asyncio.Event) -> None:
        """`infer` answers one request; from `stopping` on no further ones are read."""
        self._infer = infer
        self._stopping = stopping

    async def __call__(self, context: Context) -> None:
        """Serves one stream to its end. Raises ProtocolError where the server ends it."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_AHEAD)

        async def read() -> None:
            try:
                await room.acquire()
                while (body := await context.read()) is not grpc.aio.EOF:
                    answers.put_nowait(group.create_task(self._answer(body, context)))
                    await room.acquire()
            finally:
                answers.put_nowait(None)

        async def stop() -> None:
            await self._stopping.wait()
            reading.cancel()

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            stopping = group.create_task(stop())
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                room.release()
            stopping.cancel()
        if reading.cancelled():
            raise ProtocolError("the server is about to go; open the stream again", 503)

    async def _answer(self, body: bytes, context: Context) -> bytes:
        response = message("inference.ModelStreamInferResponse")()
        answer = response.infer_response
        try:
            asked = parse("inference.ModelInferRequest", body)
            answer.id = asked.id  # also beside an error, so that the client knows which one it is of
            if _wants_end(asked):
                answer.parameters["triton_final_response"].bool_param = True
            answer.MergeFrom(await self._infer(asked, context))
        except ProtocolError as error:
            response.error_message = str(error)
        except Exception as error:
            response.error_message = internal_error("ModelStreamInfer", error)
        return serialize(response)


def _wants_end(asked: Any) -> bool:
    """Whether the client waits for the mark of a request's last answer; here each has one."""
    name = "triton_enable_empty_final_response"
    return name in asked.parameters and asked.parameters[name].bool_param
