"""`zoo deploy systemd`: a unit that serves one model, with no more rights than that takes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from zoo.deploy.folder import Deployment, write_folder
from zoo.deploy.model import copy_model, dns_name, open_model
from zoo.deploy.package import ZooPackage
from zoo.deploy.text import render


def deploy_systemd(path: Path, folder: Path, *, zoo: str | None, host: str, port: int) -> Deployment:
    """Writes a unit file, at whose top the commands stand that install it, and the model.

    `zoo` is a wheel or requirement of Zoo, see `ZooPackage.of`. Raises its errors, ModelError for a model that is
    damaged, UsageError where the folder is not as Zoo wrote it.
    """
    package = ZooPackage.of(zoo)
    model = open_model(path)
    model_file, unit = f"{model.name}.onnx", f"zoo-{dns_name(model.name)}.service"
    command = ["/opt/zoo/bin/zoo", "serve", f"/opt/zoo/models/{model_file}", "--host", host, "--port", str(port)]

    def fill(new: Path) -> None:
        copy_model(model, new / model_file)
        if package.wheel:
            shutil.copyfile(package.wheel, new / package.wheel.name)
        text = render(
            "zoo.service",
            unit=unit,
            model=_escape(model.name),
            model_argument=shlex.quote(model_file),
            requirement=shlex.quote(package.wheel.name if package.wheel else package.requirement),
            command=" ".join(_word(word) for word in [*command, "--device", "cpu"]),
        )
        (new / unit).write_text(text, encoding="utf-8")

    files = write_folder(folder, fill)
    return Deployment(folder=folder, files=files, next=f"on the server, the commands at the top of {folder / unit}")


def _escape(text: str) -> str:
    """`text` without specifiers: systemd would put something else in place of %h."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a command line as systemd splits it, https://www.freedesktop.org/software/systemd/man/systemd.service.html"""
    if text == shlex.quote(text):
        return text
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("$", "$$")):
        text = text.replace(character, escaped)
    return f'"{_escape(text)}"'
