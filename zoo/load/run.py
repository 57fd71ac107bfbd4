"""Latency and throughput of a server, at each number of connections."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import monotonic, process_time
from typing import Any

import numpy as np

from zoo.client import Client
from zoo.client.address import Address, model_path
from zoo.client.wire import Message, infer_request
from zoo.load.content import find_model, make_inputs
from zoo.load.generator import Generator, Tally
from zoo.progress import Progress, Task
from zoo.serving.loop import new_event_loop

_WARM_UP = 1.0
"""Seconds at most, and a fifth of the measurement."""
_STEP = 0.25
"""Seconds between two reports of progress."""
_BUSY = 0.8
"""Share of a core from which on the generator may be what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What to measure."""

    connections: tuple[int, ...] = (1, 8, 32)
    seconds: float = 10.0
    """For each number of connections, after warming up."""
    rate: float | None = None
    """Requests a second that are due, whatever became of earlier ones; None: each connection waits for its answer."""
    timeout: float = 60.0
    """Seconds that answers may take after the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """What one number of connections gave. Latencies are those of answers with status 200."""

    connections: int
    requests: int
    """Those that counted, whatever became of them."""
    answered: int
    per_s: float
    """Answers a second that came, also to what was asked before."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    failures: dict[str, int]
    """By status; `connection` where one broke or could not be had, `unanswered` what took longer than the timeout."""
    refused_share: float
    """Of requests that the server was too busy for: 429."""
    refused_p99_ms: float | None
    """Until it said so."""
    generator_share: float
    """Of a processor core, that this program itself took."""


def load(
    client: Client, *, model: str | None, images: Sequence[bytes], request: LoadRequest, progress: Progress
) -> dict[str, Any]:
    """`url`, `model`, `rate`, `rows` and `warnings` of a server that speaks the Open Inference Protocol v2.

    It is asked with `images` (files), or with tensors as its metadata describe them. Ctrl-C ends the measurement
    (`interrupted`): what it gave until then stands in the last row.

    Raises ServerError where the server refuses the first request, and the errors of `find_model` and `make_inputs`.
    """
    name = find_model(client, model)
    inputs = make_inputs(client.metadata(name), images)
    client.infer(name, inputs[0])  # a request that it refuses is refused in its own words
    messages = [
        _http(client.address, f"{model_path(name)}/infer", infer_request(each, binary=client.binary)) for each in inputs
    ]
    client.close()
    rows: list[LoadRow] = []
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        interrupted = not runner.run(_measure_all(client.address, messages, request, progress=progress, rows=rows))
    return {
        "url": client.address.url,
        "model": name,
        "rate": request.rate,
        "rows": [asdict(row) for row in rows],
        "warnings": _warnings(rows, request.rate),
        "interrupted": interrupted,
    }


async def _measure_all(
    address: Address, messages: Sequence[bytes], request: LoadRequest, *, progress: Progress, rows: list[LoadRow]
) -> bool:
    """Fills `rows`. Gives whether it came to the end."""
    warm_up = min(_WARM_UP, request.seconds / 5)
    with progress.task("measuring", len(request.connections) * (warm_up + request.seconds)) as task:
        for count in request.connections:
            generator = Generator(
                address, itertools.cycle(messages), connections=count, rate=request.rate, timeout=request.timeout
            )
            generator.start()
            cpu = process_time()
            try:
                await _pass(warm_up, generator.tally, task, what=f"{count} connections, warming up")
                generator.tally.began, cpu = monotonic(), process_time()
                await _pass(request.seconds, generator.tally, task, what=f"{count} connections")
                came, ended, cpu = generator.tally.came, monotonic(), process_time() - cpu
                await generator.stop()
            except asyncio.CancelledError:  # Ctrl-C, by asyncio.Runner
                generator.abandon()
                tally = generator.tally
                if tally.seconds:
                    rows.append(_row(count, tally, came=tally.came, ended=monotonic(), cpu=process_time() - cpu))
                return False
            rows.append(_row(count, generator.tally, came=came, ended=ended, cpu=cpu))
    return True


async def _pass(seconds: float, tally: Tally, task: Task, *, what: str) -> None:
    until, before = monotonic() + seconds, tally.came
    while (left := until - monotonic()) > 0:
        step = min(_STEP, left)
        await asyncio.sleep(step)
        answered = tally.came - before
        before += answered
        task.advance(step, f"{what}: {answered / step:,.0f}/s" if answered else what)


def _row(connections: int, tally: Tally, *, came: int, ended: float, cpu: float) -> LoadRow:
    answered, failed = len(tally.seconds), sum(tally.failures.values())
    p50, p95, p99, longest = _percentiles(tally.seconds) if answered else (None, None, None, None)
    return LoadRow(
        connections=connections,
        requests=answered + failed,
        answered=answered,
        per_s=came / (ended - tally.began),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=longest,
        failures=dict(sorted(tally.failures.items())),
        refused_share=len(tally.refused) / max(1, answered + failed),
        refused_p99_ms=_percentiles(tally.refused)[2] if tally.refused else None,
        generator_share=cpu / (ended - tally.began),
    )


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float, float]:
    """p50, p95, p99 and the longest, in milliseconds."""
    p50, p95, p99, longest = (1e3 * float(value) for value in np.percentile(seconds, (50, 95, 99, 100)))
    return p50, p95, p99, longest


def _warnings(rows: Sequence[LoadRow], rate: float | None) -> list[str]:
    found = []
    for row in rows:
        if row.generator_share > _BUSY:
            found.append(
                f"{row.connections} connections: this program itself took {row.generator_share:.0%} of a core; "
                "the server may do more than it could ask for"
            )
        if rate is not None and row.per_s < 0.95 * rate:
            found.append(f"{row.connections} connections: {row.per_s:.0f} answers a second, of {rate:g} that were due")
    return found


def _http(address: Address, path: str, message: Message) -> bytes:
    """A whole request, as it goes over the wire."""
    headers: Mapping[str, str] = {
        "Host": address.authority,
        **address.headers,
        **message.headers,
        "Content-Length": str(len(message.body)),
    }
    lines = [f"POST {address.base}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + message.body
