"""Several backbones put together as one on the training images, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from zoo.artifacts.files import folder_once, read_json, sha256_file, sha256_json, write_json
from zoo.artifacts.runs import all_known
from zoo.catalogue.composites import ARROW, PLUS, parse_chain, separator
from zoo.data.dataset import DataSet
from zoo.errors import RunError, UsageError
from zoo.finetune.joints import Found, Joining, Tried
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, Resolved, split_weights
from zoo.nn.chain import ChainEntry, gives_images, whole_input
from zoo.nn.composite import CompositeEntry
from zoo.nn.side_by_side import FusedEntry
from zoo.nn.weights import save_tensors
from zoo.progress import Progress
from zoo.specs import ImageInput


def join_backbones(
    request: FinetuneRequest, parts: Sequence[Resolved], data: DataSet, environment: Environment, progress: Progress
) -> tuple[FinetuneRequest, Resolved, Tried | None]:
    """The backbones of a request as one, the request that says where they join, and which places were tried.

    A single one comes back as it is. Side by side, the embeddings of all are brought to one scale. Of a chain that
    leaves it open, every place to join is tried where two backbones have maps of the same stride: the adapter is
    fitted, without labels, and the place is taken whose features tell the classes apart best (ridge regression, exact
    leave-one-out). What was found is kept in the cache. Raises UsageError where the backbones do not fit together.
    """
    if len(parts) == 1:
        return request, parts[0], None
    given, entry, tried = _input(parts), _entry(request.backbone, parts), None
    if request.strategy == "scratch":
        if entry is None:
            raise UsageError(
                f"--strategy scratch: where {request.backbone} join is chosen by their weights; give stages, as in "
                "'A[:7] -> B[5:]'"
            )
        return request, _joined(parts, entry, given, None, request), None
    joining = Joining(parts=parts, given=given, data=data, request=request, progress=progress)
    key = {
        "schema": 1,
        "weights": [sha256_file(part.weights) for part in parts if part.weights is not None],
        "input": asdict(given),
        "samples": [(sample.sha256, sample.label) for sample in joining.samples],
        "torch": torch.__version__,
    }
    root = environment.cache / "composites"

    def folder(name: str) -> Path:
        return root / sha256_json({**key, "backbone": name})

    def keep(found: Found) -> None:
        weights = found.whole.state_dict()
        folder_once(folder(found.entry.id), lambda at: save_tensors(at / "weights.safetensors", weights))

    def choose(at: Path) -> None:
        found = joining.chain(None)
        keep(found)
        write_json(at / "joint.json", {"backbone": found.entry.id, "tried": found.tried})

    try:
        if entry is None:
            facts = read_json(folder_once(folder(request.backbone), choose) / "joint.json")
            entry, tried = _entry(facts["backbone"], parts), facts["tried"]
            assert entry is not None
            progress.say(_summary(entry, tried))
        if not folder(entry.id).is_dir():
            keep(joining.fuse() if isinstance(entry, FusedEntry) else joining.chain(entry.joints))
    except OSError as error:
        what = f"several backbones as one cannot be kept: {root} ({error.strerror})"
        raise RunError(f"{what}; free space, or set ZOO_CACHE") from None
    weights = zip(split_weights(request.weights, len(parts)), parts, strict=True)
    named = _sign(entry).join(own or part.weights_name for own, part in weights)
    path = folder(entry.id) / "weights.safetensors"
    return replace(request, backbone=entry.id, weights=named), _joined(parts, entry, given, path, request), tried


def _input(parts: Sequence[Resolved]) -> ImageInput:
    """What the whole takes, see `whole_input`.

    Raises UsageError where a backbone does not take images of that size.
    """
    specs = [part.backbone.spec for part in parts]
    found = whole_input(specs, [part.input for part in parts])
    sizing = next((part for part in parts if not gives_images(part.backbone.spec)), parts[0])
    for part in parts:
        size = part.input
        fixed = size.fixed_size and (size.height, size.width) != (found.height, found.width)
        if fixed or found.height % size.size_divisor or found.width % size.size_divisor:
            raise UsageError(
                f"{part.backbone.id} does not take images of {found.height} x {found.width}, which "
                f"{sizing.backbone.id} takes; give an --input-size that both take"
            )
    return found


def _entry(name: str, parts: Sequence[Resolved]) -> CompositeEntry | None:
    """The backbones as one; None of a chain that leaves open where it joins."""
    links = tuple(part.link for part in parts)
    if separator(name) == PLUS:
        return FusedEntry(links=links)
    _, joints = parse_chain(name)
    return ChainEntry(links=links, joints=joints) if joints is not None else None


def _sign(entry: CompositeEntry) -> str:
    return PLUS if isinstance(entry, FusedEntry) else ARROW


def _joined(
    parts: Sequence[Resolved], entry: CompositeEntry, given: ImageInput, weights: Path | None, request: FinetuneRequest
) -> Resolved:
    """The whole, as a single backbone is known."""
    return Resolved(
        backbone=entry,
        head=parts[0].head,
        weights=weights,
        weights_name=_sign(entry).join(part.weights_name for part in parts),
        weights_license=all_known([part.weights_license for part in parts]),
        pretrained_on=all_known([part.pretrained_on for part in parts]),
        input=given,
        drop_stages=request.drop_stages,
        upstream_stages=entry.upstream_stages,
    )


def _summary(entry: CompositeEntry, tried: Tried) -> str:
    """What the places to join were measured to be worth, and whether one backbone alone is worth as much."""
    said = ", ".join(f"{row['backbone']} {row['accuracy']:.1%}" for row in tried)
    best = max((row for row in tried if separator(row["backbone"]) is None), key=lambda row: float(row["accuracy"]))
    joined = max(row["accuracy"] for row in tried if row["backbone"] == entry.id)
    advice = "" if joined > best["accuracy"] else f"; {best['backbone']} alone tells as much, and is cheaper"
    return f"chain {entry.id}; right about training images left out one by one: {said}{advice}"
