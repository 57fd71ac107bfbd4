"""From a finished run to `model.onnx`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from zoo.artifacts.files import write_bytes
from zoo.artifacts.manifest import INPUT, METADATA_KEY, OUTPUT, Golden, HeadManifest, output_of
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.artifacts.seal import seal
from zoo.catalogue import BackboneEntry, Catalogue
from zoo.data.dataset import DataSet
from zoo.errors import ModelError, UsageError
from zoo.export.answering import Answering
from zoo.export.describe import describe, describe_head
from zoo.export.evidence import gather_evidence
from zoo.export.graph import attach_manifest, to_onnx
from zoo.export.heads import Head, open_heads
from zoo.export.judge import Conditions, Variant
from zoo.export.outputs import Outputs, add_outputs
from zoo.export.parity import find_parity
from zoo.export.sharing import join
from zoo.export.stitch import export_members, stitch
from zoo.export.variants import Precision, choose_variant
from zoo.nn.cascade import load_cascade, load_members
from zoo.nn.composite import find_backbone
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel
from zoo.progress import Progress
from zoo.runtime.golden import golden_image
from zoo.runtime.session import Device, open_session
from zoo.runtime.threads import available_threads

_GOLDEN_SIZES = ((48, 64), (160, 120))
_MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """As what a run is exported."""

    outputs: Outputs = field(default_factory=Outputs)
    heads: Mapping[str, Path] = field(default_factory=dict)
    """Further finished runs by the names of their heads: each adds its own outputs, but for an embedding."""
    precision: Precision = "fp32"
    max_loss: float = 0.005
    """The largest share of right answers that another precision may lose."""
    device: Device = "auto"
    """Where another precision must be faster."""
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.heads and self.precision != "fp32":
            raise UsageError(
                f"precision of a file of several heads: {self.precision}; only fp32: leave --precision out"
            )


def export(
    run_path: Path,
    out: Path,
    *,
    catalogue: Catalogue,
    progress: Progress,
    options: ExportOptions | None = None,
    data: DataSet | None = None,
) -> dict[str, Any]:
    """Writes the model of a finished run to `out` and gives path, size, measured parity, and what was tried.

    Nothing is written unless parity holds. Another precision is made and judged with the images of `data`, by default
    those of the run, and only kept where it is worth it. Of further heads it is told what share of their weights the
    file holds anyway. Raises RunError for an unfinished run, ParityError where the exported model answers differently,
    ModelError where it cannot be exported or `out` is not a Zoo model, UsageError for outputs that it cannot have and
    for heads beside or of a cascade, DataError where images are missing that another precision needs.
    """
    options = options or ExportOptions()
    threads = options.threads or available_threads()
    run = RunFolder.open_complete(run_path)
    _check_target(out)
    make_fabric("cpu", threads)
    cascade, members = load_cascade(run), load_members(run, catalogue)
    if cascade and options.heads:
        raise UsageError(f"a cascade cannot have further heads: {run_path}; export it alone")
    heads = open_heads(options.heads, catalogue)
    models, records = [model for model, _ in members], [record for _, record in members]
    check_size(models)
    for record in (records[-1], *(head.record for head in heads)):
        options.outputs.check(len(record.classes), cascade=cascade is not None)
    evidence = None
    if options.precision != "fp32":
        side = max(max(record.input.height, record.input.width) for record in records)
        # A cascade's own images are those that chose it; its members know those they were trained on.
        images = data or _data_of(run.members[-1] if run.members else run)
        evidence = gather_evidence(images, records[-1].classes, side=side)

    def assemble(parts: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        whole = stitch(parts, cascade) if cascade else copy.deepcopy(parts[0])
        add_outputs(whole, options.outputs)
        return whole

    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "model.onnx"
        with progress.task("exporting", 2) as task:
            if cascade:
                parts = export_members(models, cascade)
            else:
                parts = [_export_one(models[0], records[0], catalogue, embedding=options.outputs.embedding)]
            whole, shared = assemble(parts), dict[str, float]()
            if heads:
                further = {head.name: assemble([_export_one(head.model, head.record, catalogue)]) for head in heads}
                whole, shared = join(whole, further)
            task.advance(1, "parity")
            candidate.write_bytes(whole.SerializeToString())
            parity = find_parity(Answering(models, cascade), candidate, _data_of(run), threads=threads)
            manifests = [_prove_head(head, candidate, shared=shared[head.name], threads=threads) for head in heads]
            task.advance()
        chosen, tried = Variant(proto=whole), list[Variant]()
        if evidence is not None:
            conditions = Conditions(max_loss=options.max_loss, device=options.device, threads=threads)
            chosen, tried = choose_variant(options.precision, parts, assemble, evidence, conditions, progress)
            candidate.write_bytes(chosen.proto.SerializeToString())
        golden = _golden(candidate)
    variants = [variant.to_json() for variant in tried]
    manifest = describe(
        run,
        records,
        cascade,
        parity=parity,
        golden=golden,
        precision=chosen.precision,
        variants=variants,
        heads=manifests,
    )
    attach_manifest(chosen.proto, manifest)
    content = seal(chosen.proto.SerializeToString())
    try:
        write_bytes(out, content)
    except OSError as error:
        raise ModelError(f"cannot write the model: {out} ({error.strerror}); choose another -o") from None
    return {
        "model": str(out),
        "precision": chosen.precision,
        "bytes": len(content),
        "parity": parity,
        "variants": variants,
        "heads": {head.name: {"shared": head.shared, "parity": head.parity} for head in manifests},
    }


def check_size(models: Sequence[TransferModel]) -> None:
    """Raises ModelError for models whose weights, of all together, protobuf cannot hold in one file."""
    size = sum(tensor.nbytes for model in models for tensor in model.state_dict().values())
    if size > _MAX_BYTES:
        raise ModelError(
            f"model too large for one file: {size:,} bytes, at most {_MAX_BYTES:,}; use a smaller backbone"
        )


def _data_of(run: RunFolder) -> DataSet:
    return DataSet.from_json(run.read("dataset"))


def _export_one(
    model: TransferModel, record: ModelRecord, catalogue: Catalogue, *, embedding: bool = False
) -> onnx.ModelProto:
    """The graph of one model, whose nodes are named after the backbones that it may be joined of."""
    backbone = find_backbone(catalogue, record.backbone)
    member_of = None if isinstance(backbone, BackboneEntry) else backbone.member_of
    return to_onnx(model, embedding=embedding, member_of=member_of)


def _prove_head(head: Head, exported: Path, *, shared: float, threads: int) -> HeadManifest:
    """What the manifest says of a further head, its parity measured."""
    output = output_of(OUTPUT, head.name)
    answering, data = Answering([head.model], None), _data_of(head.run)
    parity = find_parity(answering, exported, data, threads=threads, output=output)
    return describe_head(head, parity=parity, golden=_golden(exported, output), shared=shared)


def _golden(model: Path, output: str = OUTPUT) -> tuple[Golden, ...]:
    """What the model itself answers here, on the CPU, to images given by formula."""
    session = open_session(model, device="cpu")
    found = []
    for seed, (height, width) in enumerate(_GOLDEN_SIZES):
        [probabilities] = session.run([output], {INPUT: golden_image(height, width, seed)[None]})[0].tolist()
        found.append(Golden(height=height, width=width, seed=seed, probabilities=tuple(probabilities)))
    return tuple(found)


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
