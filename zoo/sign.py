"""The verb `sign`: a signature beside an exported model."""

from __future__ import annotations

from pathlib import Path

from zoo.artifacts.signature import write_signature
from zoo.runtime.model import OnnxModel


def sign(model: Path, private_key: Path) -> Path:
    """Signs an exported model and gives the path of the signature, `MODEL.sig`.

    Raises ModelError for a damaged file and one that Zoo did not export, and the errors of `write_signature`.
    """
    OnnxModel(model, device="cpu").require_manifest("sign")
    return write_signature(model, private_key)
