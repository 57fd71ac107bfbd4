"""Ctrl-C that ends training at a step's end, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether somebody has asked training to stop."""

    requested = False


@contextmanager
def catch_interrupt(*, patient: bool = False) -> Iterator[Interrupt]:
    """Turns the first SIGINT or SIGTERM into a request; a second one ends the process as usual.

    `patient`: a second one changes nothing; for processes that are told by another one.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupt.requested = True
        if not patient:
            signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, request)
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
