"""From a finished run to `model.onnx`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from zoo.artifacts.files import write_bytes
from zoo.artifacts.manifest import INPUT, METADATA_KEY, OUTPUT, Golden
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.artifacts.seal import seal
from zoo.catalogue import BackboneEntry, Catalogue
from zoo.data.dataset import DataSet, Sample
from zoo.errors import ModelError, UsageError
from zoo.export.answering import Answering
from zoo.export.describe import describe
from zoo.export.graph import attach_manifest, to_onnx
from zoo.export.outputs import Outputs, add_outputs
from zoo.export.parity import BATCHES, as_jpegs, measure_parity, synthetic_jpegs
from zoo.export.stitch import stitch
from zoo.nn.cascade import Cascade, load_cascade, load_members
from zoo.nn.composite import find_backbone
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel
from zoo.progress import Progress
from zoo.runtime.golden import golden_image
from zoo.runtime.session import open_session
from zoo.runtime.threads import available_threads

_PARITY_IMAGES = 8
_GOLDEN_SIZES = ((48, 64), (160, 120))
_MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one file."""


def export(
    run_path: Path, out: Path, *, catalogue: Catalogue, progress: Progress, outputs: Outputs | None = None
) -> dict[str, Any]:
    """Writes the model of a finished run to `out` and gives path, size and measured parity.

    Nothing is written unless parity holds. Raises RunError for an unfinished run, ParityError where the exported
    model answers differently, ModelError where it cannot be exported or `out` is not a Zoo model, UsageError for
    outputs that it cannot have.
    """
    run = RunFolder.open_complete(run_path)
    _check_target(out)
    make_fabric("cpu", available_threads())
    cascade, members = load_cascade(run), load_members(run, catalogue)
    models, records = [model for model, _ in members], [record for _, record in members]
    with tempfile.TemporaryDirectory() as folder, progress.task("exporting", 3) as task:
        task.advance(1, "to ONNX")
        proto = _to_onnx(models, records, cascade, catalogue, outputs or Outputs())
        candidate = Path(folder) / "model.onnx"
        candidate.write_bytes(_serialise(proto))
        task.advance(1, "parity")
        data = DataSet.from_json(run.read("dataset"))
        jpegs = synthetic_jpegs() + as_jpegs([data.path(sample) for sample in _parity_samples(data)])
        worst = measure_parity(Answering(models, cascade), candidate, jpegs, threads=available_threads())
        golden = _golden(candidate)
        task.advance()
    parity = {"max_abs": worst, "batches": list(BATCHES), "images": len(jpegs)}
    attach_manifest(proto, describe(run, records, cascade, parity=parity, golden=golden))
    content = seal(_serialise(proto))
    try:
        write_bytes(out, content)
    except OSError as error:
        raise ModelError(f"cannot write the model: {out} ({error.strerror}); choose another -o") from None
    return {"model": str(out), "precision": "fp32", "bytes": len(content), "parity": parity}


def _to_onnx(
    models: Sequence[TransferModel],
    records: Sequence[ModelRecord],
    cascade: Cascade | None,
    catalogue: Catalogue,
    outputs: Outputs,
) -> onnx.ModelProto:
    """The graph of a model or of the members of a cascade."""
    if cascade:
        if outputs.embedding:
            raise UsageError("output embedding: each member of a cascade has its own; leave it out")
        proto = stitch(models, cascade)
    else:
        backbone = find_backbone(catalogue, records[0].backbone)
        member_of = None if isinstance(backbone, BackboneEntry) else backbone.member_of
        proto = to_onnx(models[0], embedding=outputs.embedding, member_of=member_of)
    add_outputs(proto, outputs)
    return proto


def _golden(model: Path) -> tuple[Golden, ...]:
    """What the model itself answers here, on the CPU, to images given by formula."""
    session = open_session(model, device="cpu")
    found = []
    for seed, (height, width) in enumerate(_GOLDEN_SIZES):
        [probabilities] = session.run([OUTPUT], {INPUT: golden_image(height, width, seed)[None]})[0].tolist()
        found.append(Golden(height=height, width=width, seed=seed, probabilities=tuple(probabilities)))
    return tuple(found)


def _parity_samples(data: DataSet) -> list[Sample]:
    """Real images to compare on, where the data is still there: held-out ones first, spread over the classes."""
    ordered = [*data.of("val"), *data.of("test"), *data.of("train")]
    there = [sample for sample in ordered if data.path(sample).is_file()]
    return there[:: max(1, len(there) // _PARITY_IMAGES)][:_PARITY_IMAGES]


def _check_target(out: Path) -> None:
    """Refuses to overwrite what Zoo did not write."""
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


def _serialise(proto: onnx.ModelProto) -> bytes:
    size = proto.ByteSize()
    if size > _MAX_BYTES:
        raise ModelError(
            f"model too large for one file: {size:,} bytes, at most {_MAX_BYTES:,}; use a smaller backbone"
        )
    content: bytes = proto.SerializeToString()
    return content
