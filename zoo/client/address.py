"""Where a server is, and what every request to it says."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from zoo.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server's place on the network."""

    host: str
    port: int
    base: str
    """What its paths begin with: empty, or `/PATH` behind a proxy."""
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]

    @property
    def authority(self) -> str:
        """Host and port, as the header Host has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For people."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base}"


def parse_address(url: str, *, api_key: str | None = None, tls: ssl.SSLContext | None = None) -> Address:
    """The address in `http://HOST:PORT`, `https://...` or `HOST:PORT`.

    `tls` is how to check an https server, by default against the certificates this system trusts. Raises UsageError
    for anything else.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment or not url.isascii():
        raise UsageError(f"not the address of a server: {url!r}; give one such as http://127.0.0.1:8000")
    secure = parts.scheme == "https"
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise UsageError("the API key has letters that no header can carry; give the key as the server has it")
    return Address(
        host=host,
        port=port or (443 if secure else 80),
        base=quote(parts.path.rstrip("/"), safe="/%"),
        tls=(tls or ssl.create_default_context()) if secure else None,
        headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
    )


def model_path(model: str) -> str:
    """The path of a model."""
    return f"/v2/models/{quote(model, safe='')}"
