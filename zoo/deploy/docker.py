"""`zoo deploy docker`: what a container engine builds into an image that serves one model."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from zoo.deploy.folder import Deployment, write_folder
from zoo.deploy.model import copy_model, dns_name, open_model
from zoo.deploy.package import ZooPackage
from zoo.deploy.text import render


def deploy_docker(path: Path, folder: Path, *, zoo: str | None) -> Deployment:
    """Writes a build context: a Dockerfile for the serving runtime on the CPU, and the model.

    `zoo` is a wheel or requirement of Zoo, see `ZooPackage.of`. Raises its errors, ModelError for a model that is
    damaged, UsageError where the folder is not as Zoo wrote it.
    """
    package = ZooPackage.of(zoo)
    model = open_model(path)
    model_file = f"{model.name}.onnx"

    def fill(new: Path) -> None:
        copy_model(model, new / "models" / model_file)
        if package.wheel:
            (new / "wheels").mkdir()
            shutil.copyfile(package.wheel, new / "wheels" / package.wheel.name)
        text = render(
            "Dockerfile",
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            requirement=f"/wheels/{package.wheel.name}" if package.wheel else package.requirement,
            wheel=package.wheel,
            model_file=model_file,
        )
        (new / "Dockerfile").write_text(text, encoding="utf-8")
        (new / ".dockerignore").write_text("*\n!models\n!wheels\n", encoding="utf-8")

    files = write_folder(folder, fill)
    tag = dns_name(model.name)
    build = f"docker build -t {tag} {shlex.quote(str(folder))}"
    return Deployment(folder=folder, files=files, next=f"{build} && docker run --rm --read-only -p 8000:8000 {tag}")
