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


@pytest.fixture
def pems(tmp_path: Path) -> dict[str, Path]:
    """Files of an authority, a server and a client of it."""
    authority = trustme.CA()
    server_side, client_side = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "client")}
    authority.cert_pem.write_to_path(paths["ca"])
    server_side.cert_chain_pems[0].write_to_path(paths["cert"])
    server_side.private_key_pem.write_to_path(paths["key"])
    client_side.private_key_and_cert_chain_pem.write_to_path(paths["client"])
    return paths


def _options(pems: dict[str, Path]) -> list[str | Path]:
    return ["--tls-cert", pems["cert"], "--tls-key", pems["key"], "--tls-client-ca", pems["ca"]]


def test_only_clients_with_a_certificate_are_let_in(start: Start, tensor_model: Path, pems: dict[str, Path]) -> None:
    server = start(tensor_model, *_options(pems), "--workers", "2")
    assert server.url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(pems["ca"]))
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|closed|eof"):
        _ask(server, trusted)
    trusted.load_cert_chain(pems["client"])
    assert _ask(server, trusted) == 200
    server.stop()


def test_over_grpc_too(start: Start, tensor_model: Path, pems: dict[str, Path]) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    server = start(tensor_model, *_options(pems), "--grpc-port", "0")
    mine = {"private_key": str(pems["client"]), "certificate_chain": str(pems["client"])}
    for certificate, is_let_in in (({}, False), (mine, True)):
        # The address is a number, the certificate is of a name.
        arguments = [("grpc.ssl_target_name_override", "localhost")]
        with triton.InferenceServerClient(
            server.grpc, ssl=True, root_certificates=str(pems["ca"]), channel_args=arguments, **certificate
        ) as client:
            if is_let_in:
                assert client.is_server_ready()
            else:
                with pytest.raises(triton.InferenceServerException, match="UNAVAILABLE"):
                    client.is_server_ready()


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
