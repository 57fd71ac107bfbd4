"""Requests that wait go together; late ones are refused at once; one bad one does not spoil the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zoo.serving.batching import Batcher, Feeds, OverloadedError, Pace, joined
from zoo.serving.pace import measure_pace

Arrays = list[NDArray[Any]]


class _Doubling:
    """A model that doubles, takes its time, and fails for negative numbers."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.rows: list[int] = []
        self.threads: set[str] = set()
        self._seconds = seconds

    def __call__(self, feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
        x = joined(feeds)["x"]
        self.rows.append(len(x))
        self.threads.add(threading.current_thread().name)
        time.sleep(self._seconds)
        if (x < 0).any():
            raise ValueError("negative")
        return [x * 2 for _ in outputs]


def _x(*values: float) -> dict[str, NDArray[Any]]:
    return {"x": np.array(values)[:, None]}


@pytest.mark.parametrize("inline", [True, False])
def test_what_waits_goes_together(inline: bool) -> None:
    model = _Doubling(0.01)

    async def main() -> list[Any]:
        batcher = Batcher(model, Pace(max_batch=4, row_seconds=0.01, inline=inline))
        asked = [batcher.submit(_x(value), ("y",), inf) for value in range(8)]
        asked += [batcher.submit({"x": np.ones((1, 3))}, ("y",), inf), batcher.submit(_x(8, 9, 10), ("y",), inf)]
        found = await asyncio.gather(*asked)
        batcher.close()
        return [answer[0].ravel().tolist() for answer in found]

    assert asyncio.run(main()) == [[2.0 * value] for value in range(8)] + [[2.0] * 3, [16.0, 18.0, 20.0]]
    assert model.rows == [4, 4, 1, 3]  # other shapes wait for their turn
    assert (threading.main_thread().name in model.threads) == inline


def test_with_a_delay_requests_wait_for_others_until_their_call_is_full() -> None:
    model = _Doubling()

    async def main() -> tuple[float, float]:
        batcher = Batcher(model, Pace(max_batch=2, row_seconds=0.0), max_delay=0.3)
        began = time.monotonic()
        first = batcher.submit(_x(1), ("y",), inf)
        await asyncio.sleep(0.05)
        await asyncio.gather(first, batcher.submit(_x(2), ("y",), inf))
        full = time.monotonic() - began
        await batcher.submit(_x(3), ("y",), inf)  # nobody else comes
        alone = time.monotonic() - began - full
        waiting = batcher.submit(_x(4), ("y",), inf)
        await asyncio.sleep(0)
        await batcher.close()  # which waits for nobody
        assert waiting.done()
        return full, alone

    full, alone = asyncio.run(main())
    assert model.rows == [2, 1, 1]
    assert 0.05 <= full < 0.25
    assert alone >= 0.29


def test_more_rows_than_a_call_should_have_do_not_hold_up_the_loop() -> None:
    model = _Doubling()

    async def main() -> None:
        batcher = Batcher(model, Pace(max_batch=2, row_seconds=0.0, inline=True))
        found = await batcher.submit(_x(1, 2, 3), ("y",), inf)
        assert found[0].ravel().tolist() == [2, 4, 6]
        batcher.close()

    asyncio.run(main())
    assert model.threads == {"model"}


def test_rows_of_an_input_of_any_size_go_together() -> None:
    rows = list[int]()

    def sizes(feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
        rows.append(len(feeds))
        return [np.array([each["x"].size for each in feeds]) for _ in outputs]

    async def main() -> list[Any]:
        batcher = Batcher(sizes, Pace(max_batch=4, row_seconds=0.0, any_size="x"))
        asked = [batcher.submit({"x": np.ones((1, size))}, ("y",), inf) for size in (1, 2, 3)]
        found = await asyncio.gather(*asked)
        await batcher.close()
        return [answer[0].item() for answer in found]

    assert asyncio.run(main()) == [1, 2, 3]
    assert rows == [3]


def test_closed_it_answers_what_it_was_asked_and_who_comes_late() -> None:
    model = _Doubling(0.01)

    async def main() -> list[Any]:
        batcher = Batcher(model, Pace(max_batch=1, row_seconds=0.01))
        asked = [batcher.submit(_x(value), ("y",), inf) for value in range(3)]
        await batcher.close()
        assert all(each.done() for each in asked)
        # Who found the model before it was replaced, and was still decoding an image.
        late = await asyncio.wait_for(batcher.submit(_x(3), ("y",), inf), 10)
        return [*(each.result() for each in asked), late]

    assert [answer[0].item() for answer in asyncio.run(main())] == [0, 2, 4, 6]
    deadline = time.monotonic() + 10
    while any(thread.name == "model" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the thread has not ended"
        time.sleep(0.01)


def test_one_bad_request_is_refused_alone() -> None:
    model = _Doubling()

    async def main() -> list[Any]:
        batcher = Batcher(model, Pace(max_batch=8, row_seconds=0.0))
        asked = [batcher.submit(_x(value), ("y",), inf) for value in (1, -1, 2)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    first, error, last = asyncio.run(main())
    assert (first[0].item(), last[0].item()) == (2, 4)
    assert isinstance(error, ValueError)
    assert model.rows == [3, 1, 1, 1]


def test_a_full_queue_and_a_late_answer_are_told_before_they_cost_anything() -> None:
    model = _Doubling(0.05)

    async def main() -> None:
        batcher = Batcher(model, Pace(max_batch=1, row_seconds=0.05), max_queue=4)
        now = time.monotonic()
        asked = [batcher.submit(_x(1), ("y",), now + 1) for _ in range(2)]
        with pytest.raises(OverloadedError, match="queue is full"):
            batcher.check(now + 0.06)  # two before it take longer
        asked.append(batcher.submit(_x(1), ("y",), inf))
        ready = asyncio.get_running_loop().create_future()
        batcher.announce(1, ready)
        with pytest.raises(OverloadedError) as refused:
            batcher.check(inf)
        assert refused.value.status == 429
        assert refused.value.retry_after == pytest.approx(0.2)
        ready.cancel()
        await asyncio.sleep(0)
        batcher.check(inf)
        asked.append(batcher.submit(_x(1), ("y",), inf))
        asked[1].cancel()  # a client that left
        await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()

    asyncio.run(main())
    assert model.rows == [1, 1, 1]


def test_what_comes_after_the_end_is_answered_and_no_thread_is_left() -> None:
    """As for an image that was being decoded while the model was replaced."""

    async def main() -> None:
        batcher = Batcher(_Doubling(), Pace(max_batch=1, row_seconds=0.0))
        for _ in range(3):
            found = await asyncio.wait_for(batcher.submit(_x(1), ("y",), inf), 10)
            assert found[0].item() == 2
            batcher.close()
            await asyncio.sleep(0.05)

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while any(thread.name == "model" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "model"]


def test_an_answer_that_would_come_too_late_is_not_computed() -> None:
    model = _Doubling(0.2)

    async def main() -> None:
        batcher = Batcher(model, Pace(max_batch=1, row_seconds=0.001))  # it was faster when it was loaded
        first = batcher.submit(_x(1), ("y",), inf)
        late = batcher.submit(_x(2), ("y",), time.monotonic() + 0.1)
        with pytest.raises(OverloadedError, match="no answer in time"):
            await late
        await first
        batcher.close()

    asyncio.run(main())
    assert model.rows == [1]


def test_pace_is_measured() -> None:
    def sample(rows: int) -> dict[str, NDArray[Any]]:
        return _x(*np.arange(1.0, rows + 1))

    def fixed_cost(feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
        time.sleep(0.004)
        return [joined(feeds)["x"] * 2 for _ in outputs]

    def per_row(feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
        time.sleep(
            0.004 * len(joined(feeds)["x"]) ** 1.5
        )  # as a large network whose rows push each other out of the cache
        return [joined(feeds)["x"] * 2 for _ in outputs]

    def across_rows(feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
        time.sleep(0.004)
        return [np.cumsum(joined(feeds)["x"], 0) for _ in outputs]

    found = measure_pace(fixed_cost, sample, ("y",), limit=16, joins=True)
    assert (found.max_batch, found.inline) == (16, False)
    assert measure_pace(per_row, sample, ("y",), limit=16, joins=True).max_batch == 1
    assert measure_pace(across_rows, sample, ("y",), limit=16, joins=True).max_batch == 1
    assert measure_pace(fixed_cost, sample, ("y",), limit=16, joins=False).max_batch == 1
