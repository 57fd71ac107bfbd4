"""A server under test over REST: plain HTTP, no client library."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from conformance.wire import IN_JSON, Tensor, sample

_LENGTH = "inference-header-content-length"
_SECONDS = 60
BINARY_OUTPUT = {"parameters": {"binary_data_output": True}}
"""Of a request that wants all its answer in binary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of HTTP; names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says, as far as it is JSON."""
        return json.loads(self.body[: int(self.headers.get(_LENGTH, len(self.body)))])

    @property
    def error(self) -> str:
        """Why the server refuses; it must say so."""
        assert self.status >= 400, (self.status, self.body[:300])
        value = self.json
        assert set(value) == {"error"}, value
        assert isinstance(value["error"], str)
        assert value["error"]
        return value["error"]

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs of an answer to `infer`, checked against each other."""
        assert self.status == 200, (self.status, self.body[:300])
        tail = self.body[int(self.headers.get(_LENGTH, len(self.body))) :]
        found = []
        for entry in self.json["outputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            if size is None:
                found.append(Tensor.of(entry, data=entry["data"]))
            else:
                assert "data" not in entry, entry
                assert len(tail) >= size, f"{entry['name']}: {size} bytes are told, {len(tail)} follow"
                found.append(Tensor.of(entry, raw=tail[:size]))
                tail = tail[size:]
        assert not tail, f"{len(tail)} bytes too many behind the outputs"
        return found


@dataclass(frozen=True, slots=True)
class Rest:
    """A server, by the address before `/v2`."""

    url: str

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a connection of its own; an answer that comes compressed is unpacked."""
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        with closing(kind(parts.netloc, timeout=_SECONDS)) as connection:
            connection.request(method, parts.path.rstrip("/") + path, body, dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
        match found.get("content-encoding"):
            case "gzip":
                content = gzip.decompress(content)
            case "deflate":
                content = zlib.decompress(content)
            case other:
                assert other is None, other
        return Reply(status=answer.status, headers=found, body=content)

    def get(self, path: str) -> Reply:
        """The answer to GET."""
        return self.ask("GET", path)

    def extensions(self) -> list[str]:
        """What the server says it has beside the protocol."""
        return self.get("/v2").json.get("extensions", [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the server, as its metadata describe it."""

    rest: Rest
    name: str
    metadata: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v2/models/{quote(self.name, safe='')}"

    @property
    def in_json(self) -> bool:
        """Whether all its tensors have a form in JSON."""
        return all(spec["datatype"] in IN_JSON for spec in [*self.metadata["inputs"], *self.metadata["outputs"]])

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return [spec["name"] for spec in self.metadata["outputs"]]

    def inputs(self, rows: int = 1) -> list[Tensor]:
        """Tensors that it takes."""
        return [sample(spec, rows=rows) for spec in self.metadata["inputs"]]

    def ask(
        self, request: Mapping[str, Any], tail: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The answer to a request; with a `tail`, binary tensors stand behind its JSON."""
        text = json.dumps(request).encode()
        kind = {"Content-Type": "application/json"}
        if tail is not None:
            kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
        return self.rest.ask("POST", f"{self.path}/infer", text + (tail or b""), {**kind, **(headers or {})})

    def infer(self, inputs: Sequence[Tensor], **more: Any) -> Reply:
        """The answer to tensors, in JSON where they have that form, else in binary; `more` goes into the request."""
        if self.in_json:
            return self.ask({"inputs": [tensor.to_json() for tensor in inputs], **more})
        return self.infer_binary(inputs, **BINARY_OUTPUT, **more)

    def infer_binary(self, inputs: Sequence[Tensor], **more: Any) -> Reply:
        """The answer to binary tensors."""
        entries, tails = zip(*(tensor.to_binary() for tensor in inputs), strict=True)
        return self.ask({"inputs": list(entries), **more}, b"".join(tails))
