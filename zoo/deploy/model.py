"""The model that is deployed: one that answers as it should, in one file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from zoo.errors import ModelError, UsageError
from zoo.runtime.golden import check_golden
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import open_session


def open_model(path: Path) -> OnnxModel:
    """The model in `path`.

    Raises ModelError where it is damaged or does not give the answers its manifest expects, UsageError where its name
    would break lines of what is written.
    """
    if not path.stem.isprintable():
        raise UsageError(f"cannot be the name of a model: {path.stem!r}; rename the file")
    model = OnnxModel(path, device="cpu")
    if model.manifest is not None:
        check_golden(model)
    return model


def copy_model(model: OnnxModel, target: Path) -> None:
    """Copies the file of a model. Raises ModelError where it is no model without the files beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.path, target)
    try:
        open_session(target, device="cpu", threads=1)
    except ModelError:
        raise ModelError(
            f"model has its weights in files beside it: {model.path}; save it as one file first "
            "(`onnx.save(onnx.load(FILE), NEW_FILE)`)"
        ) from None


def dns_name(name: str) -> str:
    """`name` in lower case letters, digits and `-`, beginning with a letter: what Kubernetes and Docker take."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}".strip("-")
