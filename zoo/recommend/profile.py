"""What one pass of a backbone over a data set tells about how they suit each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import Sample
from zoo.data.store import labels
from zoo.errors import UsageError
from zoo.finetune.boundary import measure_costs
from zoo.finetune.objective import SourceLogits
from zoo.finetune.sources import Sources
from zoo.nn.batches import Batches
from zoo.nn.build import build_backbone, build_source_head
from zoo.nn.engine import derive_seed, place
from zoo.nn.linear import standardise, stratified
from zoo.nn.ridge import Spectrum
from zoo.nn.tap_choice import CHOICE_ROWS, left_out_right
from zoo.nn.taps import PooledTaps, make_taps
from zoo.recommend.evidence import log_evidence
from zoo.recommend.separation import Collapse, collapse, h_score, neighbour_accuracy
from zoo.recommend.similarity import Numbers, SourceAnswers, SourceStatistics

MOST_IMAGES = 5_000
"""More are not looked at."""
_TWIN_IMAGES = 500
_RESAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One backbone with its weights on the training images of one data set; accuracies are of exact leave-one-out
    ridge regression."""

    backbone: str
    """`<plugin>/<name>@<tag>`."""
    images: int
    classes: int
    tap_accuracies: Sequence[float]
    """Of the mean activations of each stage alone, bottom up, and last of the embedding."""
    concatenated: Sequence[float]
    """Of the embedding, then of ever more stages below it beside it."""
    neighbour_accuracy: float
    log_evidence: float
    h_score: float
    collapse: Collapse
    twin_accuracy: float
    """Of the same architecture with random weights, on at most 500 images: what it owes to its own shape."""
    own_accuracy: float
    """With its weights, on the same images."""
    slope: tuple[float, float]
    """What the accuracy gains from a quarter of the images to half, and from half to all."""
    source: SourceAnswers | None
    """None of a backbone without a classifier of its source task, or without its last stages."""
    distance: float | None
    """Frechet distance of the embeddings from those of the source data, where a registry has these."""
    image_seconds: float
    """What training all of it takes for one image, on this device."""
    seconds: float

    @property
    def accuracy(self) -> float:
        """Of the best of the concatenated sets of features."""
        return max(self.concatenated)

    @property
    def gap(self) -> float:
        """How much more the best stage alone tells than the embedding: large where the data is far from the source."""
        return max(self.tap_accuracies) - self.tap_accuracies[-1]

    @property
    def gain(self) -> float:
        """The share of the mistakes of random weights that pretraining takes away."""
        return (self.own_accuracy - self.twin_accuracy) / max(1 - self.twin_accuracy, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        derived = {"accuracy": self.accuracy, "gap": self.gap, "gain": self.gain}
        return {**asdict(self), **derived}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Profile:
        """The profile that `to_json` gave."""
        own = {name: value[name] for name in cls.__dataclass_fields__}
        source = SourceAnswers(**own["source"]) if own["source"] is not None else None
        return cls(**own | {"source": source, "collapse": Collapse(**own["collapse"]), "slope": tuple(own["slope"])})


def profile(sources: Sources, known: SourceStatistics | None) -> Profile:
    """The profile of the backbone of `sources`; `known` is what its source data was like.

    Its features are those that a probe is fitted on: whoever trains with this backbone afterwards finds them there.
    """
    began = time.monotonic()
    seed, every, classes = sources.request.seed, len(sources.taps), len(sources.data.classes)
    samples = _some(sources.data.of("train"), MOST_IMAGES, seed)
    features, truth = sources.features_of(samples, "features of training images", taps=every)
    features = features[:, 0].double()
    rows = stratified(truth, CHOICE_ROWS, seed, "rows to profile by")
    groups = _groups(features[rows], sources.widths(every))
    beside = [torch.cat(groups[every - taps :], 1) for taps in range(every + 1)]
    concatenated = [_accuracy(some, truth[rows], classes) for some in beside]
    embedding: Numbers = features[:, -sources.widths(0)[0] :].numpy()
    own = stratified(truth, _TWIN_IMAGES, seed, "images for the twin")
    is_whole = not sources.request.drop_stages
    return Profile(
        backbone=f"{sources.resolved.backbone.id}@{sources.resolved.weights_name}",
        images=len(samples),
        classes=classes,
        tap_accuracies=[*(_accuracy(group, truth[rows], classes) for group in groups[:-1]), concatenated[0]],
        concatenated=concatenated,
        neighbour_accuracy=neighbour_accuracy(embedding, truth.numpy()),
        log_evidence=log_evidence(torch.from_numpy(embedding), truth, classes),
        h_score=h_score(embedding, truth.numpy()),
        collapse=collapse(embedding, truth.numpy()),
        twin_accuracy=_everything(_twin_features(sources, samples, own), truth[own], sources, classes),
        own_accuracy=_everything(features[own], truth[own], sources, classes),
        slope=_slope(beside[int(np.argmax(concatenated))], truth[rows], classes, seed),
        source=_source_answers(sources, samples, own) if is_whole else None,
        distance=known.distance(embedding) if known is not None and is_whole else None,
        image_seconds=_image_seconds(sources),
        seconds=time.monotonic() - began,
    )


def _some(samples: Sequence[Sample], most: int, seed: int) -> list[Sample]:
    if len(samples) <= most:
        return list(samples)
    return [samples[int(row)] for row in stratified(torch.from_numpy(labels(samples)), most, seed, "images to profile")]


def _groups(features: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    mean, scale = standardise(features, widths)
    groups: tuple[Tensor, ...] = ((features - mean) / scale).split(list(widths), 1)
    return groups


def _accuracy(centred: Tensor, truth: Tensor, classes: int) -> float:
    return float(left_out_right(Spectrum.of(centred), truth, classes).mean())


def _everything(features: Tensor, truth: Tensor, sources: Sources, classes: int) -> float:
    """The accuracy of all taps and the embedding together."""
    return _accuracy(torch.cat(_groups(features, sources.widths(len(sources.taps))), 1), truth, classes)


def _twin_features(sources: Sources, samples: Sequence[Sample], rows: Tensor) -> Tensor:
    """Features [N, D] of all taps of the same architecture with random weights."""
    resolved = sources.resolved
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(sources.request.seed, "twin"))
        backbone = build_backbone(resolved.backbone.id, resolved.staged, None)
    module = PooledTaps(backbone, make_taps(sources.taps, resolved.staged.stages))
    extractor = sources.extractor(place(module, sources.fabric), "taps of all stages")
    found = extractor.of([samples[int(row)] for row in rows], "features of random weights")
    return torch.from_numpy(found.copy()).double()


def _slope(centred: Tensor, truth: Tensor, classes: int, seed: int) -> tuple[float, float]:
    """From a quarter of the samples to half, and from half to all, in the mean over resamples."""
    accuracies = []
    for share in (4, 2):
        most, found = max(2 * classes, len(truth) // share), []
        for number in range(_RESAMPLES):
            rows = stratified(truth, most, seed, f"resample {number}")
            some = centred[rows] - centred[rows].mean(0)
            found.append(_accuracy(some, truth[rows], classes))
        accuracies.append(sum(found) / len(found))
    quarter, half = accuracies
    return half - quarter, _accuracy(centred, truth, classes) - half


def _image_seconds(sources: Sources) -> float:
    """Of one image, read and brought forward and backward through all of the backbone."""
    train = sources.images.train
    assert isinstance(train, Batches)
    costs = measure_costs(sources.model, train, frozen=0, policy=sources.plan.augment, fabric=sources.fabric)
    assert costs is not None  # no stage is frozen, and images are tensors
    return costs.read + costs.suffix


def _source_answers(sources: Sources, samples: Sequence[Sample], rows: Tensor) -> SourceAnswers | None:
    """What the source classifier says of some samples; None where there is none."""
    resolved = sources.resolved
    try:
        head = build_source_head(resolved.backbone, resolved.weights)
    except UsageError:
        return None
    module = place(SourceLogits(sources.model.backbone, head), sources.fabric)
    extractor = sources.extractor(module, "source logits")
    return SourceAnswers.of(extractor.of([samples[int(row)] for row in rows], "source classes").astype(np.float64))
