"""The verb `verify`: whether exported models are as they were made, and answer here as they did there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zoo.artifacts.files import sha256_file
from zoo.artifacts.manifest import ModelManifest
from zoo.artifacts.runs import RunFolder
from zoo.artifacts.signature import check_signature, signature_path
from zoo.errors import ModelError, RunError
from zoo.runtime.golden import GOLDEN_TOLERANCE, check_golden
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device, cuda_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at of a model, and how it was found."""

    model: str
    check: str
    ok: bool
    detail: str


def verify(
    models: Sequence[Path], *, device: Device = "auto", run: Path | None = None, public_key: Path | None = None
) -> list[Check]:
    """Every check of every model, failed ones too: the file, its manifest, its golden answers on each device there is.

    With `run`, whether it or one of its heads was exported from that; with `public_key`, the signature beside it.
    Raises RunError for a run that is not complete or damaged, UsageError for what is not a key, DeviceError for a
    device that is not there, MissingExtraError where signatures cannot be read.
    """
    devices: list[Device] = [device] if device != "auto" else ["cpu", "cuda"] if cuda_devices() else ["cpu"]
    parent = _open_parent(run) if run is not None else None
    found = []
    for path in models:
        if public_key is not None:
            found.append(_look(path, "signature", partial(_signature, path, public_key)))
        found += _checks(path, devices, parent)
    return found


def _checks(path: Path, devices: Sequence[Device], parent: RunFolder | None) -> Iterator[Check]:
    try:
        model = OnnxModel(path, device=devices[0])
    except ModelError as error:  # nothing that such a file says can be believed
        yield Check(model=str(path), check="file", ok=False, detail=str(error))
        return
    sealed = model.manifest is not None and model.manifest.is_sealed
    detail = "whole: its digest is right" if sealed else "loads, and holds no digest of itself"
    yield Check(model=str(path), check="file", ok=True, detail=detail)
    yield _look(path, "manifest", partial(_manifest, model))
    if model.manifest is None:
        return
    for device in devices:
        yield _look(path, f"golden answers, {device}", partial(_golden, path, device))
    if parent is not None:
        yield _look(path, "parent run", partial(_parent, model.manifest, parent))


def _look(path: Path, name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(model=str(path), check=name, ok=True, detail=find())
    except ModelError as error:
        return Check(model=str(path), check=name, ok=False, detail=str(error))


def _signature(path: Path, public_key: Path) -> str:
    check_signature(path, public_key)
    return f"{signature_path(path).name} is of this file and key"


def _manifest(model: OnnxModel) -> str:
    manifest = model.require_manifest("verify")
    schema = f"schema {manifest.schema}" + ("" if manifest.is_sealed else ", of a Zoo that wrote no digests into files")
    heads = "".join(f"; head {head.name}: {head.backbone}, {len(head.labels)} labels" for head in manifest.heads)
    return f"{schema}; {manifest.backbone}, {len(manifest.labels)} labels, {manifest.precision}{heads}"


def _golden(path: Path, device: Device) -> str:
    model = OnnxModel(path, device=device)
    worst, allowed = check_golden(model), GOLDEN_TOLERANCE[model.require_manifest("verify").precision]
    return f"off by {worst:.1e} at most in probabilities, allowed {allowed:.0e}"


def _open_parent(path: Path) -> RunFolder:
    """The finished run in `path`. Raises RunError where its weights are not those it finished with."""
    run = RunFolder.open_complete(path)
    # Those of a cascade are in its members.
    if not run.members and not (
        run.weights.is_file() and sha256_file(run.weights) == run.read("result")["weights_sha256"]
    ):
        raise RunError(f"weights of the run are not those it finished with: {run.weights}; restore them")
    return run


def _parent(manifest: ModelManifest, run: RunFolder) -> str:
    weights = run.read("result")["weights_sha256"]
    known = [answer.run_sha256 for answer in manifest.answers if answer.run_weights_sha256 == weights]
    if not known:
        raise ModelError(f"not the parent run: {run.path} (it has other weights); give the run it was exported from")
    if run.digest in known:
        return "has the same weights and records"
    if None in known:
        return "has the same weights; the manifest holds no digest of its records"
    raise ModelError(f"not the parent run: {run.path} (its records have other digests); restore them")
