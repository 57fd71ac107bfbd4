"""`zoo deploy kserve`: an InferenceService for Kubernetes, and the model repository to upload for it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from zoo.deploy.folder import Deployment, write_folder
from zoo.deploy.model import dns_name, open_model
from zoo.deploy.text import render
from zoo.deploy.triton import TritonConfig, fill_model_folder
from zoo.errors import UsageError

_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+\Z")


def deploy_kserve(path: Path, folder: Path, *, storage_uri: str, max_batch: int) -> tuple[Deployment, TritonConfig]:
    """Writes `models/`, to be uploaded to `storage_uri`, and the manifest of a service that Triton runs from there.

    Raises UsageError for what is no URI, and the errors of `deploy_triton`.
    """
    if not _URI.match(storage_uri):
        raise UsageError(f"storage URI: {storage_uri!r}; such as s3://bucket/models, gs://... or pvc://...")
    model = open_model(path)
    config = TritonConfig.of(model, max_batch)
    name = dns_name(model.name)
    manifest = f"{name}.yaml"

    def fill(new: Path) -> None:
        (new / "models").mkdir()
        fill_model_folder(new / "models" / model.name, model, config)
        text = render("inferenceservice.yaml", name=name, storage_uri=storage_uri)
        (new / manifest).write_text(text, encoding="utf-8")

    files = write_folder(folder, fill)
    upload = f"upload what is in {folder / 'models'} to {storage_uri}"
    command = f"{upload}, then: kubectl apply -f {shlex.quote(str(folder / manifest))}"
    return Deployment(folder=folder, files=files, next=command), config
