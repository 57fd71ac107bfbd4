"""A signature tells whose a model is; nothing else than the signed file with the signer's key passes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from zoo.artifacts.seal import ONNX_KEY, UNSEALED, seal

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _keys(
    folder: Path,
    name: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _signature(zoo: Zoo, model: Path, public: Path) -> tuple[int, str]:
    done = zoo("verify", model, "--key", public, "--device", "cpu", "--json")
    value = json.loads(done.stdout)
    return done.returncode, value["checks"][0]["detail"] if "checks" in value else value["error"]


def test_sign_and_verify(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    private, public = _keys(tmp_path, "mine", ec.generate_private_key(ec.SECP256R1()))
    _, theirs = _keys(tmp_path, "theirs", ec.generate_private_key(ec.SECP384R1()))
    copy, link = tmp_path / "copy.onnx", tmp_path / "link.onnx"
    copy.write_bytes(model.read_bytes())
    link.symlink_to(copy)
    assert "no signature" in _signature(zoo, copy, public)[1]
    done = zoo("sign", copy, "--key", private, "--json")
    assert done.returncode == 0, done.stdout
    signature = tmp_path / "copy.onnx.sig"
    assert json.loads(done.stdout) == {"model": str(copy), "signature": str(signature)}
    assert _signature(zoo, copy, public) == (0, "copy.onnx.sig is of this file and key")
    code, said = _signature(zoo, copy, theirs)
    assert code == 8
    assert "signature does not fit" in said

    # A whole file of the same name, made by somebody else.
    link.with_name("link.onnx.sig").write_bytes(signature.read_bytes())
    assert _signature(zoo, link, public)[0] == 0
    proto = onnx.load(model)
    proto.metadata_props[0].value = proto.metadata_props[0].value.replace("rings", "bombs")
    next(prop for prop in proto.metadata_props if prop.key == ONNX_KEY).value = UNSEALED
    copy.write_bytes(seal(proto.SerializeToString()))
    assert zoo("verify", copy, "--device", "cpu").returncode == 0
    assert "signature does not fit" in _signature(zoo, copy, public)[1]
    signature.write_text("no signature at all")
    assert "signature does not fit" in _signature(zoo, copy, public)[1]


def test_the_tool_of_the_specification_reads_the_signature(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    private, public = _keys(tmp_path, "mine", ec.generate_private_key(ec.SECP256R1()))
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    zoo("sign", copy, "--key", private)
    words = ["verify", "key", str(copy), "--signature", f"{copy}.sig", "--public_key", str(public)]
    done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_signed(model: Path, tensor_model: Path, zoo: Zoo, tmp_path: Path) -> None:
    private, public = _keys(tmp_path, "mine", ec.generate_private_key(ec.SECP256R1()))
    secret, _ = _keys(tmp_path, "secret", ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret"))
    long, _ = _keys(tmp_path, "long", rsa.generate_private_key(65537, 2048))
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    for key in (public, secret, long, copy, tmp_path / "none.pem"):
        done = zoo("sign", copy, "--key", key)
        assert (done.returncode, done.stderr[:33]) == (2, "error: not a usable private key: "), done.stderr
    assert "not a usable public key" in _signature(zoo, copy, private)[1]
    assert zoo("sign", tensor_model, "--key", private).returncode == 8
    (tmp_path / "copy.onnx.sig").write_text("of somebody else")
    done = zoo("sign", copy, "--key", private)
    assert done.returncode == 2
    assert "already there" in done.stderr
    (tmp_path / "copy.onnx.sig").unlink()
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    assert zoo("sign", copy, "--key", private).returncode == 8
    assert not (tmp_path / "copy.onnx.sig").exists()


def test_the_extra_is_asked_for(model: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    done = zoo("verify", model, "--key", "public.pem")
    assert done.returncode == 10
    assert "pip install 'zoo[sign]'" in done.stderr
