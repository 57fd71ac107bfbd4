"""From a finished run to `model.onnx`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.artifacts.files import write_bytes
from zoo.artifacts.manifest import METADATA_KEY, Golden, ModelManifest
from zoo.artifacts.runs import ModelRecord, RunFolder, all_known
from zoo.catalogue import BackboneEntry, Catalogue
from zoo.catalogue.composites import ARROW, separator, split
from zoo.data.dataset import DataSet, Sample
from zoo.errors import ModelError
from zoo.export.answering import Answering
from zoo.export.graph import attach_manifest, to_onnx
from zoo.export.parity import BATCHES, as_jpegs, measure_parity, synthetic_jpegs
from zoo.export.stitch import stitch
from zoo.nn.cascade import Cascade, Gate, load_cascade, load_members
from zoo.nn.composite import find_backbone
from zoo.nn.engine import make_fabric
from zoo.progress import Progress
from zoo.runtime.golden import golden_image
from zoo.runtime.threads import available_threads

_PARITY_IMAGES = 8
_GOLDEN_SIZES = ((48, 64), (160, 120))
_MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one file."""


def export(run_path: Path, out: Path, *, catalogue: Catalogue, progress: Progress) -> dict[str, Any]:
    """Writes the model of a finished run to `out` and gives path, size and measured parity.

    Nothing is written unless parity holds. Raises RunError for an unfinished run, ParityError where the exported
    model answers differently, ModelError where it cannot be exported or `out` is not a Zoo model.
    """
    run = RunFolder.open_complete(run_path)
    _check_target(out)
    make_fabric("cpu", available_threads())
    cascade, members = load_cascade(run), load_members(run, catalogue)
    models, records = [model for model, _ in members], [record for _, record in members]
    answering = Answering(models, cascade)
    with progress.task("exporting", 3) as task:
        result, data = run.read("result"), DataSet.from_json(run.read("dataset"))
        task.advance(1, "to ONNX")
        if cascade:
            proto = stitch(models, cascade)
        else:
            backbone = find_backbone(catalogue, records[0].backbone)
            member_of = None if isinstance(backbone, BackboneEntry) else backbone.member_of
            proto = to_onnx(models[0], member_of=member_of)
        task.advance(1, "parity")
        jpegs = synthetic_jpegs() + as_jpegs([data.path(sample) for sample in _parity_samples(data)])
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder) / "model.onnx"
            candidate.write_bytes(_serialise(proto.SerializeToString, proto.ByteSize()))
            worst = measure_parity(answering, candidate, jpegs, threads=available_threads())
        task.advance()
    parity = {"max_abs": worst, "batches": list(BATCHES), "images": len(jpegs)}
    attach_manifest(proto, _manifest(run, answering, records, cascade, result, data, parity))
    content = _serialise(proto.SerializeToString, proto.ByteSize())
    try:
        write_bytes(out, content)
    except OSError as error:
        raise ModelError(f"cannot write the model: {out} ({error.strerror}); choose another -o") from None
    return {"model": str(out), "precision": "fp32", "bytes": len(content), "parity": parity}


def _manifest(
    run: RunFolder,
    answering: Answering,
    records: Sequence[ModelRecord],
    cascade: Cascade | None,
    result: dict[str, Any],
    data: DataSet,
    parity: dict[str, Any],
) -> ModelManifest:
    finest = max(records, key=lambda record: record.input.height * record.input.width)
    return ModelManifest(
        task="classification",
        labels=records[-1].classes,
        input=asdict(finest.input),
        backbone=result["backbone"],
        weights=finest.weights,
        weights_license=all_known([record.weights_license for record in records]),
        pretrained_on=all_known([record.pretrained_on for record in records]),
        strategy=result["strategy"],
        run_weights_sha256=result["weights_sha256"],
        source_weights_sha256=finest.weights_sha256,
        data_fingerprint=data.fingerprint,
        seed=run.read("request")["request"]["seed"],
        metrics={name: result[name] for name in ("val_accuracy", "test_accuracy")},
        parity=parity,
        golden=tuple(_golden(answering, height, width, seed) for seed, (height, width) in enumerate(_GOLDEN_SIZES)),
        versions={"zoo": __version__, **{name: version(name) for name in ("torch", "onnx", "onnxscript")}},
        cascade=_cascade(cascade, records, result) if cascade else _composite(records[0]),
    )


def _cascade(cascade: Cascade, records: Sequence[ModelRecord], result: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of a cascade: its members and, of a gate, how many images stopped at each while the
    threshold was chosen, to compare with later."""
    members: list[dict[str, Any]] = [
        {
            "backbone": record.backbone,
            "weights": record.weights,
            "weights_sha256": record.weights_sha256,
            "weights_license": record.weights_license,
            "input": asdict(record.input),
        }
        for record in records
    ]
    if isinstance(cascade, Gate):
        for member, rate in zip(members, result["val_exits"], strict=True):
            member["exit_rate"] = rate
    return {**cascade.to_json(), "members": members}


def _composite(record: ModelRecord) -> dict[str, Any] | None:
    """What the manifest says of several backbones that were trained as one; None of a single one."""
    sign = separator(record.backbone)
    if sign is None:
        return None
    links = zip(split(record.backbone), split(record.weights), strict=True)
    return {
        "kind": "chain" if sign == ARROW else "fuse",
        "members": [{"backbone": name, "weights": weights} for name, weights in links],
    }


def _golden(answering: Answering, height: int, width: int, seed: int) -> Golden:
    probabilities = answering(golden_image(height, width, seed)[None])[0].tolist()
    return Golden(height=height, width=width, seed=seed, probabilities=tuple(probabilities))


def _parity_samples(data: DataSet) -> list[Sample]:
    """Real images to compare on, where the data is still there: held-out ones first, spread over the classes."""
    ordered = [*data.of("val"), *data.of("test"), *data.of("train")]
    there = [sample for sample in ordered if data.path(sample).is_file()]
    return there[:: max(1, len(there) // _PARITY_IMAGES)][:_PARITY_IMAGES]


def _check_target(out: Path) -> None:
    """Refuses to overwrite what Zoo did not write."""
    import onnx

    if not out.parent.is_dir():
        raise ModelError(f"no such folder: {out.parent}; make it first")
    if not out.exists():
        return
    try:
        ours = any(prop.key == METADATA_KEY for prop in onnx.load(out, load_external_data=False).metadata_props)
    except Exception:  # whatever it is, it is not ours
        ours = False
    if not ours:
        raise ModelError(f"file already there and not a Zoo model: {out}; choose another -o")


def _serialise(serialise: Any, size: int) -> bytes:
    if size > _MAX_BYTES:
        raise ModelError(
            f"model too large for one file: {size:,} bytes, at most {_MAX_BYTES:,}; use a smaller backbone"
        )
    content: bytes = serialise()
    return content
