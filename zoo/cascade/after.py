"""The verb `finetune --after`: a probe whose head also hears what finished runs say of the image, coarse to fine."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zoo.artifacts.files import sha256_file, sha256_json
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.artifacts.versions import package_versions
from zoo.cascade.left_out import Said, said_unseen
from zoo.cascade.probes import JointHead, Member, fit_joint_head, measured, probe
from zoo.catalogue import Catalogue
from zoo.data.dataset import Split
from zoo.errors import DataError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.nn.build import load_run_model
from zoo.nn.cascade import After, Edge
from zoo.nn.linear import Labelled
from zoo.nn.model import TransferModel
from zoo.nn.weights import save_tensors
from zoo.progress import Progress

Method = Literal["single", "after"]
_MEASURED: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class _Upstream:
    """A finished run whose answers the new head hears."""

    path: Path
    run: RunFolder
    model: TransferModel
    record: ModelRecord


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to answer, and what comes out for images that nothing of it has seen: calibrated logits [N, C] and
    labels [N]."""

    method: Method
    unseen: Mapping[Split, Labelled]

    @property
    def loss(self) -> float:
        return float(F.cross_entropy(*self.unseen["val"]))

    @property
    def accuracies(self) -> dict[str, float | None]:
        """The share of right answers about validation and test images, as a result record has it."""
        right = {split: (found.argmax(1) == truth).double().mean() for split, (found, truth) in self.unseen.items()}
        return {f"{split}_accuracy": float(right[split]) if split in right else None for split in _MEASURED}

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "val_loss": self.loss, **self.accuracies}


def after(
    request: FinetuneRequest, runs: Sequence[Path], out: Path, environment: Environment, progress: Progress
) -> dict[str, Any]:
    """Trains `request` after finished `runs` in the new run folder `out`, and gives its result record.

    The backbone gets a probe. One linear head on its features and the centred log-probabilities of every run, these
    from models that had not seen the image, is kept where it is clearly better than the probe alone on validation
    images: it costs a pass of every run. Raises UsageError for what cannot be done after a run, DataError without
    validation images, and the errors of `said_unseen`.
    """
    began = time.monotonic()
    RunFolder.check_free(out)
    _check(request)
    upstream = _open(runs, environment.catalogue)
    with tempfile.TemporaryDirectory() as folder:  # what takes time, the features, is kept in the cache
        member = probe(request, Path(folder) / "probe", environment, progress)
        data = member.sources.data
        if not data.of("val"):
            raise DataError(f"no validation images to compare by: {data.source}; give more images, or a --val-share")
        said = [said_unseen(each.path, data, request, environment, progress) for each in upstream]
        alone = _alone(member)
        head, together = _together(member, said, request.seed, progress)
        best = together if _clearly_better(together, alone) else alone
        if best is alone:
            progress.say(f"{request.backbone} alone: what the runs before it say does not clearly make it better")
        kept = upstream if best is together else []
        if kept:
            member.set_head(head.weights[0], head.bias)
        cascade = _edges(head.weights[1 : 1 + len(kept)])
        before = [_facts(*pair) for pair in zip(upstream, said, strict=True)]
        own = {**_described(member.run.read_model()), **alone.accuracies}
        names = " + ".join(each.record.backbone for each in kept)
        probabilities: dict[str, NDArray[np.float32]] = {
            split: found.softmax(1).float().numpy() for split, (found, _) in best.unseen.items()
        }
        result = {
            "run": str(out),
            "strategy": "after",
            "method": best.method,
            "backbone": f"{names} -> {own['backbone']}" if kept else own["backbone"],
            **measured(probabilities, data),
            "members": [*before[: len(kept)], own],
            "upstream": before,
            "methods": [alone.to_json(), together.to_json()],
            "fitted_splits": ["train", "val"],
            "seconds": time.monotonic() - began,
        }

        def fill(run: RunFolder) -> None:
            for source, model in [*((each.run, each.model) for each in kept), (member.run, member.model)]:
                save_tensors(run.add_member(source).weights, model.state_dict())
            files = [each.weights for each in run.members]
            if kept:
                save_tensors(run.edges, {edge.name: torch.from_numpy(edge.weight) for edge in cascade.edges})
                files.append(run.edges)
            run.write("request", {"request": {**asdict(request), "after": [str(path) for path in runs]}})
            run.write("cascade", cascade.to_json())
            run.write("environment", package_versions())
            run.write("dataset", data.to_json())
            run.write_predictions(probabilities)
            run.write("result", {**result, "weights_sha256": sha256_json([sha256_file(file) for file in files])})

        return RunFolder.create_whole(out, fill).read("result")


def _check(request: FinetuneRequest) -> None:
    """Raises UsageError for what cannot be trained after a run."""
    if request.strategy not in ("auto", "probe"):
        raise UsageError(
            f"--strategy {request.strategy}: what comes --after a run is computed on a frozen backbone (probe); leave "
            "it out"
        )
    if request.head != "linear":
        raise UsageError(f"--head {request.head}: what comes --after a run has one linear head; leave it out")


def _open(paths: Sequence[Path], catalogue: Catalogue) -> list[_Upstream]:
    """The runs, loaded. Raises UsageError for a cascade and for twins, and the errors of `load_run_model`."""
    found, digests = list[_Upstream](), set[str]()
    for path in paths:
        run = RunFolder.open_complete(path)
        if run.members:
            raise UsageError(f"--after {path}: already a cascade; give a run that is one model")
        digest = run.read("result")["weights_sha256"]
        if digest in digests:
            raise UsageError(f"--after {path}: the same model given twice; twins tell nothing new")
        digests.add(digest)
        model, record = load_run_model(run, catalogue)
        found.append(_Upstream(path=path, run=run, model=model, record=record))
    return found


def _alone(member: Member) -> _Way:
    """The probe as it is."""
    there = [split for split in _MEASURED if member.sources.data.of(split)]
    return _Way(method="single", unseen={split: (member.unseen(split), member.truth(split)) for split in there})


def _together(member: Member, said: Sequence[Said], seed: int, progress: Progress) -> tuple[JointHead, _Way]:
    """One linear head on the features of the backbone and what the runs say; its part for each, and how it does."""
    data, plan = member.sources.data, member.sources.plan
    words = torch.cat([_centred(each) for each in said], 1)

    def heard(split: Split, *, views: int = 1) -> Labelled:
        features, truth = member.features(split, views=views)
        rows = words[torch.tensor([sample.split == split for sample in data.samples])]
        return torch.cat([features, rows[:, None].expand(-1, views, -1)], 2), truth

    head = fit_joint_head(
        heard("train", views=plan.probe_views),
        heard("val", views=plan.probe_views),
        widths=[member.widths, *([each.logits.shape[1]] for each in said)],
        classes=len(data.classes),
        seed=seed,
        balance=plan.balance,
        progress=progress,
    )
    unseen: dict[Split, Labelled] = {"val": head.unseen}
    if data.of("test"):
        rows, truth = heard("test")
        unseen["test"] = (F.linear(rows[:, 0], torch.cat(list(head.weights), 1), head.bias).double(), truth)
    return head, _Way(method="after", unseen=unseen)


def _clearly_better(way: _Way, other: _Way) -> bool:
    """Whether the loss of validation images is smaller by a standard error of the paired difference."""
    losses = [F.cross_entropy(*each.unseen["val"], reduction="none") for each in (other, way)]
    gain = losses[0] - losses[1]
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))


def _edges(weights: Sequence[Tensor]) -> After:
    """Every member before the last one goes into its head, by the part [C, G] that this has for it."""
    edges = [
        Edge(source=number, target=len(weights), type="probabilities", weight=weight.numpy())
        for number, weight in enumerate(weights)
    ]
    return After(edges=tuple(edges))


def _centred(said: Said) -> Tensor:
    """Centred log-probabilities [N, G], which are the centred logits."""
    found = torch.from_numpy(said.logits)
    return found - found.mean(1, keepdim=True)


def _facts(upstream: _Upstream, said: Said) -> dict[str, Any]:
    """What a run before does on its own task, and how many images here it had been fitted on."""
    result = upstream.run.read("result")
    return {
        "run": str(upstream.path),
        "strategy": result["strategy"],
        "left_out": said.left_out,
        "images": len(said.logits),
        **_described(upstream.record),
        **{f"{split}_accuracy": result[f"{split}_accuracy"] for split in _MEASURED},
    }


def _described(record: ModelRecord) -> dict[str, Any]:
    return {
        "backbone": record.backbone,
        "input": [record.input.height, record.input.width],
        "classes": list(record.classes),
    }
