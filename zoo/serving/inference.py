"""From a request that fits a model to its answer, whichever door it came through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import TypeVar

import numpy as np

from zoo.serving.batching import Arrays, OverloadedError
from zoo.serving.models import Models, Served
from zoo.serving.protocol import InferRequest
from zoo.serving.tensors import ProtocolError
from zoo.serving.traffic import agreement

T = TypeVar("T")


class Inference:
    """Asks models, and has threads for what takes time before that: decoding images, reading large JSON."""

    def __init__(self, models: Models, *, timeout: float | None, workers: int) -> None:
        """`timeout`: seconds after which nobody waits any more, where a request does not say it."""
        self._models = models
        self._shadowing: set[asyncio.Task[None]] = set()
        self._timeout = timeout or inf
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def check(self, served: Served, received: float) -> None:
        """Raises OverloadedError where no request would be answered in time, whatever it asks: it need not be read."""
        served.batcher.check(received + self._timeout)

    async def read(self, served: Served, received: float, work: Callable[[], T]) -> T:
        """What `work` makes of a body that takes time to read: in a thread, while others are answered. What is being
        read has a place in the queue. Raises OverloadedError as `check` does."""
        self.check(served, received)
        reading = asyncio.get_running_loop().run_in_executor(self._pool, work)
        served.batcher.announce(1, reading)
        return await reading

    def ask(self, served: Served, request: InferRequest, received: float) -> asyncio.Future[Arrays]:
        """The wanted outputs, in order. Raises ProtocolError, also as the future's, for what cannot be answered.

        `received`: when the request came, by `time.monotonic`.
        """
        shadow = self._models.shadow(served)
        if shadow is None:
            return self._ask(served, request, received)
        asked = self._ask(served, request, received)
        task = asyncio.create_task(self._compare(shadow, request, received, asked))
        self._shadowing.add(task)
        task.add_done_callback(self._shadowing.discard)
        return asked

    def _ask(self, served: Served, request: InferRequest, received: float) -> asyncio.Future[Arrays]:
        deadline = received + min(request.head.timeout or inf, self._timeout)
        served.batcher.check(deadline)
        files = served.model.image_input and request.feeds.get(served.model.image_input)
        if files is not None and not isinstance(files, str) and files.dtype == object:
            return self._ask_files(served, list(files.ravel()), request.head.names, deadline)
        served.model.check(request.feeds)
        return served.batcher.submit(request.feeds, request.head.names, deadline)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _compare(
        self, shadow: Served, request: InferRequest, received: float, asked: asyncio.Future[Arrays]
    ) -> None:
        """Asks the shadow the same; whatever becomes of that, the client has its answer."""
        try:
            await asyncio.wait([asked])
            ours = asked.result()
        except (ProtocolError, asyncio.CancelledError):
            return
        try:
            theirs = await self._ask(shadow, request, received)
        except OverloadedError:
            return
        except ProtocolError:  # it refuses what the other one answers
            theirs = []
        shadow.metrics.compared(*agreement(request.head.names, shadow.model.labels, ours, theirs))

    def _ask_files(
        self, served: Served, files: Sequence[bytes], outputs: tuple[str, ...], deadline: float
    ) -> asyncio.Future[Arrays]:
        """Each image is a row of its own: they may differ in size."""
        name = served.model.image_input
        assert name is not None
        if not files:
            raise ProtocolError(f"no image files: {name} is empty; send at least one")
        loop = asyncio.get_running_loop()
        decoding = asyncio.gather(
            *(
                loop.run_in_executor(self._pool, served.model.decode, content, f"image {row}")
                for row, content in enumerate(files)
            )
        )
        # What is being decoded has its place in the queue: to decode what is then refused would take the time of those
        # that are not.
        served.batcher.announce(len(files), decoding)

        async def answer() -> Arrays:
            images, waiting = await decoding, list[asyncio.Future[Arrays]]()
            try:
                for image in images:
                    waiting.append(served.batcher.submit({name: image[None]}, outputs, deadline))
                answers = await asyncio.gather(*waiting)
            except BaseException:
                for each in waiting:
                    each.cancel()
                raise
            return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

        asked = asyncio.ensure_future(answer())
        asked.add_done_callback(lambda _: decoding.cancel())  # where the client left
        return asked
