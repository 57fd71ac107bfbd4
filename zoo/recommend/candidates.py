"""The pretrained backbones that can be compared here, what they cost, and those whose weights are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import BackboneEntry, Catalogue
from zoo.catalogue.weights import weights_at_hand
from zoo.errors import UsageError, WeightsError
from zoo.export.latency import backbone_latency
from zoo.finetune.request import FinetuneRequest, StrategyName
from zoo.progress import Progress
from zoo.recommend.prior import REFERENCE
from zoo.specs import WeightsSpec

_PARAMETER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which backbones come into question, and what they may cost; None is no limit."""

    backbones: tuple[str, ...] = ()
    """Only these, `<plugin>/<name>[@tag]`, fetched where they are not at hand; all that are at hand where empty."""

    latency_ms: float | None = None
    """For one image, in ONNX Runtime on one thread of this machine."""
    megabytes: float | None = None
    """Of parameters in single precision."""
    seconds: float | None = None
    """For the whole training, on this device."""

    def __str__(self) -> str:
        minutes = self.seconds / 60 if self.seconds is not None else None
        given = {"--max-latency": self.latency_ms, "--max-size": self.megabytes, "--max-time": minutes}
        return ", ".join(f"{option} {value:g}" for option, value in given.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An installed backbone with one of its pretrained sets."""

    entry: BackboneEntry
    weights: WeightsSpec

    @property
    def id(self) -> str:
        """`<plugin>/<name>@<tag>`."""
        return f"{self.entry.id}@{self.weights.tag}"

    @property
    def megabytes(self) -> float:
        """Of its parameters in single precision."""
        return self.entry.spec.params * _PARAMETER_BYTES / 1e6

    def request(self, asked: FinetuneRequest, strategy: StrategyName) -> FinetuneRequest:
        """The training `asked`, with this backbone and this strategy."""
        size = None if self.weights.input.fixed_size else asked.input_size
        request = replace(asked, backbone=self.id, input_size=size)
        return request.as_probe() if strategy == REFERENCE else replace(request, strategy=strategy)


def find_candidates(
    catalogue: Catalogue, cache: Path, names: Sequence[str], *, drop_stages: int = 0
) -> tuple[list[Candidate], list[Candidate]]:
    """The backbones called `names`; where there are none, every listed one of which something is left without
    `drop_stages` and whose weights are at hand, once for each such set, and the others, with their default set.

    Raises UsageError for an unknown name and a backbone that has no pretrained weights, WeightsError where there is no
    candidate.
    """
    if names:
        named = [_candidate(name, catalogue) for name in names]
        return list({each.id: each for each in named}.values()), []
    enough = [each for each in catalogue.backbones if len(each.spec.stages) > drop_stages]
    here = [Candidate(entry, weights) for entry, weights in weights_at_hand(enough, cache)]
    found = {each.entry.id for each in here}
    missing = [entry for entry in enough if entry.id not in found and entry.spec.weights]
    if not here:
        raise WeightsError(
            f"no pretrained weights at hand: {len(missing)} installed backbones have theirs elsewhere; get some with "
            "`zoo weights fetch NAME`"
        )
    return here, [Candidate(entry, entry.spec.weights[0]) for entry in missing]


def _candidate(name: str, catalogue: Catalogue) -> Candidate:
    entry, weights = catalogue.find_backbone(name)
    if not entry.spec.weights:
        raise UsageError(f"no pretrained weights: {entry.id}; compare others")
    return Candidate(entry, weights or entry.spec.weights[0])


def latencies(
    candidates: Sequence[Candidate],
    asked: FinetuneRequest,
    limits: Limits,
    known: dict[str, float],
    run: RunFolder,
    progress: Progress,
) -> dict[str, float]:
    """Milliseconds of one image on one thread, by id, of those candidates that are within `limits`.

    Where time is no limit they are looked up in `known`, by backbone, if it was measured at the same input size; else
    they are measured here, once for `run`. Raises UsageError where no candidate is left.
    """
    found = {}
    for each in candidates:
        if limits.megabytes is not None and each.megabytes > limits.megabytes:
            continue
        spec, taken = each.entry.spec, each.weights.input
        if asked.input_size is not None and not taken.fixed_size:
            taken = replace(taken, height=asked.input_size, width=asked.input_size)
        usual = (taken.height, taken.width) == (spec.input.height, spec.input.width)
        if limits.latency_ms is None and usual and each.entry.id in known:
            found[each.id] = known[each.entry.id]
            continue
        progress.say(f"measuring how long {each.entry.id} takes")
        measure = partial(backbone_latency, replace(spec, input=taken))
        milliseconds = float(run.decide(f"latency of {each.id}", measure))
        if limits.latency_ms is None or milliseconds <= limits.latency_ms:
            found[each.id] = milliseconds
    if not found:
        raise UsageError(f"no backbone at hand within {limits}: {', '.join(each.id for each in candidates)}; raise it")
    return found
