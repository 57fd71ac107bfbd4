"""The manifest of an exported model: what the records of its runs say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from zoo import __version__
from zoo.artifacts.manifest import Golden, HeadManifest, ModelManifest
from zoo.artifacts.runs import ModelRecord, RunFolder, all_known
from zoo.catalogue.composites import ARROW, separator, split
from zoo.data.dataset import DataSet
from zoo.export.heads import Head
from zoo.metrics import wilson_interval
from zoo.nn.cascade import Cascade, Gate


def describe(
    run: RunFolder,
    records: Sequence[ModelRecord],
    cascade: Cascade | None,
    *,
    parity: Mapping[str, Any],
    golden: tuple[Golden, ...],
    precision: str,
    variants: Sequence[Mapping[str, Any]],
    heads: Sequence[HeadManifest],
) -> ModelManifest:
    """The manifest of a model made of one record, or of those of the members of a cascade."""
    return ModelManifest(
        **_answer(run, records, cascade),
        parity=parity,
        golden=golden,
        versions={"zoo": __version__, **{name: version(name) for name in ("torch", "onnx", "onnxscript")}},
        precision=precision,
        variants=tuple(variants),
        heads=tuple(heads),
    )


def describe_head(head: Head, *, parity: Mapping[str, Any], golden: tuple[Golden, ...], shared: float) -> HeadManifest:
    """What the manifest says of a further head."""
    facts = _answer(head.run, [head.record], None)
    return HeadManifest(**facts, parity=parity, golden=golden, name=head.name, shared=shared)


def _answer(run: RunFolder, records: Sequence[ModelRecord], cascade: Cascade | None) -> dict[str, Any]:
    """What the records of a run say of its answers."""
    result, data = run.read("result"), DataSet.from_json(run.read("dataset"))
    metrics, counts = {name: result[name] for name in ("val_accuracy", "test_accuracy")}, data.counts()
    finest = max(records, key=lambda record: record.input.height * record.input.width)
    return {
        "task": "classification",
        "labels": records[-1].classes,
        "input": asdict(finest.input),
        "backbone": result["backbone"],
        "weights": finest.weights,
        "weights_license": all_known([record.weights_license for record in records]),
        "pretrained_on": all_known([record.pretrained_on for record in records]),
        "strategy": result["strategy"],
        "run_weights_sha256": result["weights_sha256"],
        "run_sha256": run.digest,
        "source_weights_sha256": finest.weights_sha256,
        "data_fingerprint": data.fingerprint,
        "seed": run.read("request")["request"]["seed"],
        "images": counts,
        "metrics": metrics,
        "intervals95": {
            name: _interval(share, counts[name.removesuffix("_accuracy")])
            for name, share in metrics.items()
            if share is not None
        },
        "cascade": _cascade(cascade, records, result) if cascade else _composite(records[0]),
    }


def _interval(share: float, images: int) -> tuple[float, float]:
    return wilson_interval(round(share * images), images)


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
