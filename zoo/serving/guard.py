"""Who may ask: API keys."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest

from zoo.serving.http import Request, Response

_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What an orchestrator asks, which has no key."""


class Guard:
    """Refuses requests without a key, before their body is read."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def __call__(self, request: Request) -> Response | None:
        """The refusal, or None for a request with a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
        if request.path in _OPEN:
            return None
        given = request.headers.get(b"x-api-key")
        if given is None:
            kind, _, given = request.headers.get(b"authorization", b"").partition(b" ")
            given = given.strip() if kind.lower() == b"bearer" else b""
        # All are compared, so that the time taken does not tell which one is near.
        if sum(compare_digest(given, key) for key in self._keys):
            return None
        return Response.error(
            "no valid API key; send Authorization: Bearer KEY", 401, headers={"WWW-Authenticate": "Bearer"}
        )
