"""The verb `finetune --cascade fuse`: several frozen backbones look at each image, and one head hears them all."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.artifacts.files import sha256_file, sha256_json
from zoo.artifacts.runs import RunFolder
from zoo.artifacts.versions import package_versions
from zoo.cascade.probes import Member, fit_joint_head, measured, probe
from zoo.cascade.selection import select
from zoo.catalogue.composites import PLUS
from zoo.data.dataset import Split
from zoo.data.store import labels
from zoo.errors import DataError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.nn.cascade import Fusion, Probabilities
from zoo.nn.linear import STEPS, Labelled, fit_linear
from zoo.nn.weights import save_tensors
from zoo.progress import Progress

_OF_PROBE = (
    *("data", "backbone", "weights", "input_size", "drop_stages", "mirror", "augment", "balance", "shots", "val_share"),
    *("seed", "device", "threads", "on_bad_sample"),
)
"""What a request that trains says of a probe, too."""

Method = Literal["single", "joint", "average", "stack"]


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """One way to answer: the members asked, and what comes out for validation images that nothing of it has seen."""

    method: Method
    members: Sequence[int]
    unseen: Labelled
    """Calibrated logits [N, C] and labels [N]."""
    heads: Sequence[tuple[Tensor, Tensor]] = ()
    """Weight [C, D] and bias [C] of each member's part of a joint head; none where the heads stay as they were."""

    @property
    def loss(self) -> float:
        return float(F.cross_entropy(*self.unseen))

    def to_json(self) -> dict[str, Any]:
        found, truth = self.unseen
        right = float((found.argmax(1) == truth).double().mean())
        return {"method": self.method, "members": list(self.members), "val_accuracy": right, "val_loss": self.loss}


def fuse(
    requests: Sequence[FinetuneRequest],
    out: Path,
    environment: Environment,
    progress: Progress,
    *,
    max_latency: float | None = None,
) -> dict[str, Any]:
    """Fuses the backbones of `requests`, which are alike but for these, in the new run folder `out`; its result record.

    Each backbone gets a probe. Forward selection keeps those that tell more than the ones before; of these, one head on
    the features of all, the mean of their probabilities and a head on their answers are compared with the best
    backbone alone on validation images, and the best of it is kept. The backbones that answer take `max_latency`
    milliseconds for an image at most (ONNX Runtime, one thread, as measured now). Raises UsageError where they do not
    go together or each takes longer, DataError without validation images.
    """
    began = time.monotonic()
    RunFolder.check_free(out)
    _check(requests)
    if requests[0].strategy not in ("auto", "probe"):
        raise UsageError(f"--strategy {requests[0].strategy}: the members of this kind of fusion are probes")
    with tempfile.TemporaryDirectory() as folder:  # what takes time, the features, is kept in the cache
        members = _probes(requests, Path(folder), environment, progress)
        data = members[0].sources.data
        if not data.of("val"):
            raise DataError(f"no validation images to compare by: {data.source}; give more images, or a --val-share")
        candidates = _candidates(members, _select(members, max_latency, progress), max_latency, progress)
        best = min(candidates, key=lambda candidate: candidate.loss)
        chosen = [members[number] for number in best.members]
        fusion = Fusion(average=best.method == "average")
        for member, head in zip(chosen, best.heads, strict=False):  # there may be none
            member.set_head(*head)
        probabilities = {"val": best.unseen[0].softmax(1).float().numpy()}
        if data.of("test"):
            probabilities["test"] = fusion.combine(_logits(chosen, "test"))[0].astype(np.float32)
        timed = max_latency is not None
        result = {
            "run": str(out),
            "strategy": "fuse",
            "method": best.method,
            "backbone": " + ".join(member.sources.resolved.backbone.id for member in chosen),
            **measured(probabilities, data),
            "members": [_facts(member, timed=timed) for member in chosen],
            "probes": [_facts(member, timed=timed) for member in members],
            "methods": [candidate.to_json() for candidate in candidates],
            "fitted_splits": ["train", "val"],
            "seconds": time.monotonic() - began,
        }

        def fill(run: RunFolder) -> None:
            for member in chosen:
                save_tensors(run.add_member(member.run).weights, member.model.state_dict())
            backbones = [{"backbone": request.backbone, "weights": request.weights} for request in requests]
            run.write(
                "request", {"request": {**asdict(requests[0]), "backbones": backbones, "max_latency": max_latency}}
            )
            run.write("cascade", fusion.to_json())
            run.write("environment", package_versions())
            run.write("dataset", data.to_json())
            run.write_predictions(probabilities)
            digest = sha256_json([sha256_file(member.weights) for member in run.members])
            run.write("result", {**result, "weights_sha256": digest})

        return RunFolder.create_whole(out, fill).read("result")


def side_by_side(
    requests: Sequence[FinetuneRequest],
    environment: Environment,
    progress: Progress,
    *,
    max_latency: float | None = None,
) -> FinetuneRequest:
    """The request that trains those backbones of `requests`, which are alike but for these, that `fuse` would keep: as
    one backbone, side by side. Raises UsageError where they do not go together or are too slow.
    """
    _check(requests)
    if requests[0].strategy == "scratch":
        raise UsageError("--strategy scratch: what is fused is pretrained; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        # A probe knows nothing of how the backbone is to be trained.
        plain = [FinetuneRequest(**{name: getattr(each, name) for name in _OF_PROBE}) for each in requests]
        order = _select(_probes(plain, Path(folder), environment, progress), max_latency, progress)
    kept = [requests[number] for number in order]
    weights = [each.weights for each in kept if each.weights is not None]
    return replace(
        requests[0],
        backbone=PLUS.join(each.backbone for each in kept),
        weights=PLUS.join(weights) if weights else None,
    )


def _check(requests: Sequence[FinetuneRequest]) -> None:
    """Raises UsageError for what cannot be fused."""
    if len(requests) < 2:
        raise UsageError("--cascade fuse needs two backbones at least: --backbone A --backbone B")
    names = [request.backbone for request in requests]
    if len(set(zip(names, (request.weights for request in requests), strict=True))) < len(requests):
        raise UsageError(f"--backbone {names[0]}: given twice with the same weights; twins tell each other nothing")
    if requests[0].head != "linear":
        raise UsageError(f"--head {requests[0].head}: a fusion has one linear head; leave it out")


def _probes(
    requests: Sequence[FinetuneRequest], folder: Path, environment: Environment, progress: Progress
) -> list[Member]:
    """Each backbone with a head of its own."""
    outs = [folder / f"probe-{number}" for number in range(len(requests))]
    return [probe(*pair, environment, progress) for pair in zip(requests, outs, strict=True)]


def _select(members: Sequence[Member], max_latency: float | None, progress: Progress) -> list[int]:
    """The backbones worth asking, the best first. Raises UsageError where each takes longer than is allowed."""
    budget = math.inf if max_latency is None else max_latency
    taken = [0.0 if max_latency is None else member.latency for member in members]
    if min(taken) > budget:
        raise UsageError(f"--max-latency {budget:g}: the fastest backbone takes {min(taken):.1f} ms; allow more")
    data, seed = members[0].sources.data, members[0].sources.request.seed
    plain = [(member.features("train")[0][:, 0], member.widths) for member in members]
    truth = members[0].truth("train")
    order = select(plain, truth, classes=len(data.classes), seed=seed, costs=taken, budget=budget)
    if len(order) == 1:
        best = members[order[0]].sources.resolved.backbone
        progress.say(f"{best.id} alone: the others tell nothing that it does not")
    return order


def _candidates(
    members: Sequence[Member], order: Sequence[int], max_latency: float | None, progress: Progress
) -> list[_Candidate]:
    """Every way to answer, the best backbone alone first."""
    seed = members[0].sources.request.seed
    truth = torch.from_numpy(labels(members[0].sources.data.of("val")))
    words = [member.unseen() for member in members]
    alone = [
        _Candidate(method="single", members=[number], unseen=(said, truth))
        for number, said in enumerate(words)
        if max_latency is None or members[number].latency <= max_latency
    ]
    single = min(alone, key=lambda candidate: candidate.loss)
    if len(order) == 1:
        return [single]
    several = [members[number] for number in order]
    mean = torch.stack([words[number].exp() for number in order]).mean(0).log()
    return [
        single,
        _joint(several, order, seed, progress),
        _Candidate(method="average", members=order, unseen=(mean, truth)),
        _stack(several, order, [words[number] for number in order], truth, seed, progress),
    ]


def _joint(members: Sequence[Member], order: Sequence[int], seed: int, progress: Progress) -> _Candidate:
    """One linear head on the features of all members, side by side."""
    plan, classes = members[0].sources.plan, len(members[0].sources.data.classes)

    def features(split: Split) -> Labelled:
        found = [member.features(split, views=plan.probe_views) for member in members]
        return torch.cat([rows for rows, _ in found], 2), found[0][1]

    head = fit_joint_head(
        features("train"),
        features("val"),
        widths=[member.widths for member in members],
        classes=classes,
        seed=seed,
        balance=plan.balance,
        progress=progress,
    )
    heads = [
        (weight, head.bias if first else torch.zeros_like(head.bias)) for first, weight in _first_marked(head.weights)
    ]
    return _Candidate(method="joint", members=order, unseen=head.unseen, heads=heads)


def _stack(
    members: Sequence[Member],
    order: Sequence[int],
    words: Sequence[Tensor],
    truth: Tensor,
    seed: int,
    progress: Progress,
) -> _Candidate:
    """A linear head on the centred logits of all members: one more linear map behind each of their heads.

    It is fitted on validation images, in cross validation, since the members' heads have seen the training images.
    """
    classes = words[0].shape[1]
    centring = torch.eye(classes, dtype=torch.float64) - 1 / classes
    said = torch.cat([each @ centring for each in words], 1)
    with progress.task("stacking", STEPS) as task:
        fit = fit_linear((said[:, None], truth), None, classes=classes, seed=seed, refit=False, task=task)
    heads = []
    for (first, weight), member in zip(_first_marked(fit.weight.split(classes, 1)), members, strict=True):
        own, onward = cast("nn.Linear", member.model.head), weight @ centring / member.model.temperature.double()
        bias = onward @ own.bias.detach().double() + (fit.bias if first else 0)
        heads.append((onward @ own.weight.detach().double(), bias))
    assert fit.held_out is not None  # there are several images of some class, or nothing could have been held out
    return _Candidate(method="stack", members=order, unseen=fit.held_out, heads=heads)


def _first_marked(parts: Sequence[Tensor]) -> Iterator[tuple[bool, Tensor]]:
    """The parts of a joint head, the first of them being the one that has the bias."""
    return ((number == 0, part) for number, part in enumerate(parts))


def _logits(members: Sequence[Member], split: Split) -> list[Probabilities]:
    """What each member says of the images of a split, [N, C]."""
    with torch.no_grad():
        return [member.model.classify(member.features(split)[0][:, 0]).double().numpy() for member in members]


def _facts(member: Member, *, timed: bool) -> dict[str, Any]:
    """What a backbone does alone, and what it takes."""
    result, size, spec = member.run.read("result"), member.sources.resolved.input, member.sources.resolved.staged
    area = size.height * size.width / (spec.input.height * spec.input.width)
    return {
        "backbone": member.sources.resolved.backbone.id,
        "input": [size.height, size.width],
        "macs": spec.macs * area,
        "val_accuracy": result["val_accuracy"],
        "test_accuracy": result["test_accuracy"],
        "latency_ms": member.latency if timed else None,
    }
