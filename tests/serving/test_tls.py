"""HTTPS, and only for clients with a certificate."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import trustme
from servers import Server, Start


def test_only_clients_with_a_certificate_are_let_in(start: Start, tensor_model: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    server_side, client_side = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "client")}
    authority.cert_pem.write_to_path(paths["ca"])
    server_side.cert_chain_pems[0].write_to_path(paths["cert"])
    server_side.private_key_pem.write_to_path(paths["key"])
    client_side.private_key_and_cert_chain_pem.write_to_path(paths["client"])
    server = start(
        *(tensor_model, "--tls-cert", paths["cert"], "--tls-key", paths["key"], "--tls-client-ca", paths["ca"]),
        *("--workers", "2"),
    )
    assert server.url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(paths["ca"]))
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|closed|eof"):
        _ask(server, trusted)
    trusted.load_cert_chain(paths["client"])
    assert _ask(server, trusted) == 200
    server.stop()


def test_load_by_https(start: Start, tensor_model: Path, tmp_path: Path, zoo_process: Callable[..., Any]) -> None:
    authority = trustme.CA()
    certificate, trusted = tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(trusted)
    server = start(tensor_model, "--tls-cert", certificate)
    measured = ("load", server.url, "--connections", "4", "--seconds", "0.5", "--json")
    done = zoo_process(*measured)
    assert done.returncode == 11
    assert "certificate verify failed" in done.stdout
    done = zoo_process(*measured, SSL_CERT_FILE=str(trusted))
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    assert row["answered"] == row["requests"] > 20


def _ask(server: Server, context: ssl.SSLContext) -> int:
    with closing(HTTPSConnection("localhost", server.port, context=context)) as client:
        client.request("GET", "/v2/models/plain")
        return client.getresponse().status


def test_certificates_that_cannot_be_used_are_told_at_once(
    tensor_model: Path, tmp_path: Path, zoo_process: Callable[..., Any]
) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    done = zoo_process("serve", tensor_model, "--tls-cert", tmp_path / "bad.pem")
    assert done.returncode == 2
    assert "certificates cannot be used" in done.stderr
    done = zoo_process("serve", tensor_model, "--tls-key", tmp_path / "bad.pem")
    assert "need --tls-cert" in done.stderr
