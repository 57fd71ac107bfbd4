"""Signatures of models, in a file beside them: who made a model, where its digest only tells that it is whole.

In the format of the OpenSSF Model Signing specification, so that `model_signing verify key` reads them, too.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from zoo.artifacts.files import write_atomically
from zoo.errors import MissingExtraError, ModelError, UsageError


def signature_path(model: Path) -> Path:
    """Where the signature of a model lies: `model.onnx.sig` beside `model.onnx`."""
    return model.with_name(f"{model.name}.sig")


def write_signature(model: Path, private_key: Path) -> Path:
    """Signs a model with an elliptic-curve key in PEM (NIST P-256, P-384 or P-521), and gives the signature's path.

    Raises UsageError for another key and where a signature is there already, MissingExtraError without the extra
    `sign`.
    """
    signing, _ = _model_signing()
    path = signature_path(model)
    if path.exists():
        raise UsageError(f"already there: {path}; it may be another's signature: remove it first")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception as error:  # of many types: the file may be anything
        raise _not_a_key(private_key, "private", error) from None
    # What a link leads to is signed: the library refuses links.
    write_atomically(path, lambda temporary: config.sign(model.resolve(), temporary))
    return path


def check_signature(model: Path, public_key: Path) -> None:
    """Raises ModelError where the signature beside a model is missing, damaged, of another key or of another file.

    Raises UsageError for a file that is not such a public key as `write_signature` takes private ones,
    MissingExtraError without the extra `sign`.
    """
    _, verifying = _model_signing()
    path = signature_path(model)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # of many types: the file may be anything
        raise _not_a_key(public_key, "public", error) from None
    if not path.is_file():
        raise ModelError(f"no signature: {path}; fetch it from whoever signed the model")
    try:
        with redirect_stdout(sys.stderr):  # where the library prints remarks
            config.verify(model.resolve(), path)
    except Exception as error:  # of many types: the file may be anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"signature does not fit: {path} ({reason:.100}); do not use the model, or give the signer's --key"
        ) from None


def _not_a_key(path: Path, kind: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())
    return UsageError(
        f"not a usable {kind} key: {path} ({reason:.100}); give an elliptic-curve key (P-256, P-384 or P-521) in PEM, "
        "not encrypted"
    )


def _model_signing() -> tuple[ModuleType, ModuleType]:
    try:
        from model_signing import signing, verifying
    except ModuleNotFoundError:
        raise MissingExtraError("model-signing is not installed: signatures need it; pip install 'zoo[sign]'") from None
    return signing, verifying
