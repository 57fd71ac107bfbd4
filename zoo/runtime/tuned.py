"""The file beside a model with the settings that `zoo bench --tune` found faster, for this file on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from zoo.artifacts.files import sha256_file, write_bytes
from zoo.artifacts.seal import UNSEALED, check_seal, seal
from zoo.errors import ModelError
from zoo.progress import Progress, Silent
from zoo.runtime.machine import processor_name
from zoo.runtime.session import Provider
from zoo.runtime.settings import SessionSettings
from zoo.runtime.threads import available_threads

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Settings, what they were measured for, and what they gained there."""

    settings: SessionSettings
    belongs_to: dict[str, Any]
    """The model's digest, execution provider, processor, available threads and version of ONNX Runtime."""
    goal: str
    batch: int
    gain: float
    """How many times as fast as with the default settings."""


def tuned_path(model: Path) -> Path:
    """Where the tuned settings of a model are kept."""
    return model.with_suffix(".tuned.json")


def circumstances(model: Path, provider: Provider) -> dict[str, Any]:
    """What tuned settings belong to: another file or another machine may well be slower with them."""
    return {
        "model": sha256_file(model),
        "provider": provider,
        "processor": processor_name(),
        "available threads": available_threads(),
        "ONNX Runtime": ort.__version__,
    }


def write_tuned(model: Path, tuned: Tuned) -> Path:
    """Puts the settings beside the model. Raises ModelError as `check_tuned_target`."""
    path = check_tuned_target(model)
    content = json.dumps({"schema": _SCHEMA, **asdict(tuned), "sha256": UNSEALED}, indent=2) + "\n"
    try:
        write_bytes(path, seal(content.encode(), "json"))
    except OSError as error:
        raise ModelError(_not_written(path, error)) from None
    return path


def remove_tuned(model: Path) -> None:
    """Removes settings that are no longer clearly faster. Raises ModelError as `check_tuned_target`."""
    path = check_tuned_target(model)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(_not_written(path, error)) from None


def check_tuned_target(model: Path) -> Path:
    """Where the settings of a model go. Raises ModelError where a file is there that is not settings of ours."""
    path = tuned_path(model)
    if path.exists():
        _read(path)
    return path


def find_settings(model: Path, provider: Provider, progress: Progress | None = None) -> SessionSettings:
    """The settings to open a model with: those beside it where they were measured for just this, else the default.

    Settings that belong elsewhere are left alone, and `progress` is told. Raises ModelError for a damaged file.
    """
    path = tuned_path(model)
    if not path.exists():
        return SessionSettings.default()
    tuned, here = _read(path), circumstances(model, provider)
    other = [name for name, value in here.items() if tuned.belongs_to.get(name) != value]
    if other:
        (progress or Silent()).say(
            f"tuned settings not used: {path} (measured with another {', '.join(other)}); "
            f"measure again: zoo bench {model} --tune"
        )
        return SessionSettings.default()
    return tuned.settings


def _read(path: Path) -> Tuned:
    """The tuned settings in `path`. Raises ModelError where they are damaged, or not ours."""
    try:
        if not check_seal(path, "json"):
            raise ValueError("no digest")
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] > _SCHEMA:
            raise ModelError(f"tuned settings of a newer Zoo: {path}; update Zoo, or delete the file")
        settings = SessionSettings.from_json(value["settings"])
        return Tuned(**{name: value[name] for name in Tuned.__slots__} | {"settings": settings})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ModelError(
            f"damaged, or not what `zoo bench --tune` wrote: {path} ({error}); move it away, then tune again"
        ) from None


def _not_written(path: Path, error: OSError) -> str:
    return f"cannot write the tuned settings: {path} ({error.strerror}); make the folder writable, or copy the model"
