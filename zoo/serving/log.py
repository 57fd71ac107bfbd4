"""A line of JSON for each request, on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic

import orjson

from zoo.serving.http import Request, Response


class AccessLog:
    """Writes what was asked, by whom, and how it was answered.

    Where nothing can be written, such as to a full disk or into a pipe that nobody reads any more, requests are
    answered all the same; before the next line that can be, one says how many are missing, and why.
    """

    def __init__(self) -> None:
        self._file = sys.stderr.fileno()
        self._missing = 0
        self._why = ""
        self._torn = False
        """Whether the last line ends in its middle."""

    def __call__(self, request: Request, response: Response) -> None:
        """Writes one line; `ms` is from the head of the request to its answer."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._missing and self._write({"time": time, "missing": self._missing, "error": self._why}):
            self._missing = 0
        self._missing += not self._write(
            {
                "time": time,
                "client": request.peer,
                "id": request.id.decode(),
                "method": request.method,
                "path": request.path,
                "status": response.status,
                "bytes_in": len(request.body),
                "bytes_out": len(response.body),
                "ms": round(1e3 * (monotonic() - request.received), 3),
            }
        )

    def _write(self, value: Mapping[str, object]) -> bool:
        left = b"\n" * self._torn + orjson.dumps(value) + b"\n"
        try:
            while left:
                # Not by `sys.stderr`, which would keep what it could not write, and try again at the end.
                written = os.write(self._file, left)
                left, self._torn = left[written:], True
        except OSError as error:
            self._why = os.strerror(error.errno or 0)
            return False
        self._torn = False
        return True
