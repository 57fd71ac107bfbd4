"""A line of JSON for each request, on standard error."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from time import monotonic

import orjson

from zoo.serving.http import Request, Response


class AccessLog:
    """Writes what was asked, by whom, and how it was answered."""

    def __call__(self, request: Request, response: Response) -> None:
        """Writes one line; `ms` is from the head of the request to its answer."""
        line = orjson.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
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
        sys.stderr.write(line.decode() + "\n")
