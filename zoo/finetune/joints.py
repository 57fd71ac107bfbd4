"""What lies between backbones that become one, found on some training images: where those of a chain join best and the
adapters there, the scales of those side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from zoo.catalogue import BackboneEntry
from zoo.catalogue.composites import Joint
from zoo.data.dataset import DataSet, Sample
from zoo.data.store import ImageStore
from zoo.errors import DataError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Resolved
from zoo.nn.adapter_fit import AdapterFit, normalise_anew
from zoo.nn.backbone import Backbone, spatial_mean
from zoo.nn.batches import Batches
from zoo.nn.build import build_backbone
from zoo.nn.chain import IMAGE, Adapter, ChainEntry, fits, gives_images
from zoo.nn.composite import CompositeEntry
from zoo.nn.engine import make_fabric, place
from zoo.nn.preprocess import Preprocess
from zoo.nn.ridge import Spectrum
from zoo.nn.side_by_side import FusedEntry
from zoo.nn.tap_choice import grams_from_the_top, left_out_right
from zoo.nn.taps import make_taps
from zoo.progress import Progress
from zoo.runtime.threads import available_threads
from zoo.specs import ImageInput, StageSpec

_IMAGES = 400
"""So many training images fit adapters and scales and choose where to join."""
_BATCH = 20
_HELD_OUT = 5
"""One in so many batches chooses an adapter's strength of regularisation."""
_GAIN = 0.003
"""Places to join that are as good to this are alike: the one with the least work is taken."""

Tried = list[dict[str, Any]]
"""Backbones, alone and joined, each with the leave-one-out accuracy of its features."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Several backbones as one, with what lies between them fitted."""

    entry: CompositeEntry
    whole: Backbone
    tried: Tried


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Backbones with their pretrained weights, to become one."""

    parts: Sequence[Resolved]
    given: ImageInput
    """What the whole takes."""
    data: DataSet
    request: FinetuneRequest
    progress: Progress

    @cached_property
    def samples(self) -> list[Sample]:
        """The training images that decide: the same ones whether unreadable files have been left out before or not."""

        def place_of(sample: Sample) -> str:
            return hashlib.sha256(f"{self.request.seed} {sample.sha256} {sample.file}".encode()).hexdigest()

        found = []
        for sample in sorted(self.data.of("train"), key=place_of):
            try:
                self._store.pixels(sample)
            except DataError:  # told of, or skipped as asked, when all images are checked
                continue
            found.append(sample)
            if len(found) == _IMAGES:
                break
        return found

    @cached_property
    def _store(self) -> ImageStore:
        return ImageStore(self.data)

    @cached_property
    def _fabric(self) -> Fabric:
        return make_fabric(self.request.device, self.request.threads or available_threads())

    def fuse(self) -> Found:
        """The backbones side by side, their embeddings brought to one scale."""
        backbones = self._backbones()
        entry = FusedEntry(links=tuple(part.link for part in self.parts))
        adapters = [Adapter(IMAGE, IMAGE) for _ in backbones]
        for adapter, part in zip(adapters, self.parts, strict=True):
            normalise_anew(adapter, self.given, part.input)
        whole = entry.assemble(backbones, adapters).eval()
        place(whole, self._fabric)
        rows = torch.cat([whole(images).double().cpu() for _, images, _ in self._batches("scales of embeddings")])
        for number, own in enumerate(rows.split([part.backbone.spec.num_features for part in self.parts], 1)):
            spread = float((own - own.mean(0)).square().mean().sqrt())
            cast("Tensor", whole.pool.scales)[number] = 1 / max(spread, 1e-12)
        return Found(entry=entry, whole=whole.cpu(), tried=[])

    def _backbones(self) -> list[Backbone]:
        """All of them, with their pretrained weights."""
        found = [build_backbone(part.backbone.id, part.backbone.spec, part.weights).eval() for part in self.parts]
        for backbone in found:
            place(backbone, self._fabric)
        return found

    def chain(self, joints: Sequence[Joint] | None) -> Found:
        """The chain that joins at `joints`, or where it is best; three backbones and more are joined from the first on.

        Raises UsageError where two of them have no maps of the same stride.
        """
        links, backbones = tuple(part.link for part in self.parts), self._backbones()
        best: list[_Place] = []
        tried = Tried()
        for number in range(1, len(links)):
            before = [each.joint for each in best]
            candidates = [joints[number - 1]] if joints is not None else self._candidates(number, before)
            places = [_Place.of(links[: number + 1], [*before, joint]) for joint in candidates]
            upstream = self._upstream(backbones[:number], best)
            self._fit(upstream, backbones[number], number, places)
            if joints is None:
                accuracies = self._judge(upstream, backbones[number], self.parts[number], places)
                tried += [
                    {"backbone": name, "accuracy": value}
                    for name, value in accuracies.items()
                    if name not in {row["backbone"] for row in tried}
                ]
                enough = max(accuracies[each.entry.id] for each in places) - _GAIN
                places = [each for each in places if accuracies[each.entry.id] > enough]
            best.append(min(places, key=lambda each: each.entry.spec.macs))
        entry = best[-1].entry
        return Found(entry=entry, whole=entry.assemble(backbones, [each.adapter for each in best]).cpu(), tried=tried)

    def _upstream(self, backbones: Sequence[Backbone], best: Sequence[_Place]) -> _Upstream:
        """These backbones, joined at the places found."""
        if not best:
            spec = self.parts[0].backbone.spec
            return _Upstream(name=self.parts[0].backbone.id, stages=spec.stages, backbone=backbones[0])
        entry = best[-1].entry
        handed = max((number for number, joint in enumerate(entry.joints, 1) if joint.start == 0), default=0)
        return _Upstream(
            name=entry.id,
            stages=entry.spec.stages,
            backbone=entry.assemble(backbones, [each.adapter for each in best]),
            images_at=entry.first_stages[handed],
            images_of=max(handed - 1, 0),
        )

    def _candidates(self, number: int, before: Sequence[Joint]) -> list[Joint]:
        """Where link `number` can follow the one before: behind the last stage of each stride that both have.

        Raises UsageError where there is no such place.
        """
        first, second = self.parts[number - 1].backbone, self.parts[number].backbone
        given, own = first.spec.stages, second.spec.stages
        if gives_images(first.spec):
            return [Joint(stop=len(given), start=0)]
        found = {}
        for start in range(1, len(own)):
            for stop in range((before[-1].start if before else 0) + 1, len(given) + 1):
                if fits(given[stop - 1], own[start - 1]):
                    found[own[start - 1].stride] = Joint(stop=stop, start=start)
        if not found:
            raise UsageError(
                f"{first.id} and {second.id} have no maps of the same stride: no chain of them can be made"
            )
        return list(found.values())

    def _batches(self, what: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All images that decide, normalised as the whole takes them, and labels; with the number of the batch."""
        source = Batches(self.samples, store=self._store, input_spec=self.given, batch_size=_BATCH)
        with self.progress.task(what, len(self.samples)) as task, torch.inference_mode():
            for number, (images, labels) in enumerate(source.plain()):
                yield number, place(images, self._fabric), labels
                task.advance(len(labels))

    def _fit(self, upstream: _Upstream, added: Backbone, number: int, places: Sequence[_Place]) -> None:
        """Fits the adapters of all places where `added`, the backbone of this number, may follow.

        They learn what it makes of the images that come last before it, normalised its own way.
        """
        wanted = self.parts[number].input
        for place_ in places:
            place(place_.adapter, self._fabric)
        if places[0].joint.start == 0:  # images are taken nowhere else
            normalise_anew(places[0].adapter, self.parts[number - 1].input, wanted)
            return
        regressions = [AdapterFit(each.adapter) for each in places]
        normalised = self.parts[upstream.images_of].input
        for batch, images, _ in self._batches("fitting adapters"):
            given = upstream.backbone.activations(images)
            expected = added.activations(_anew([images, *given][upstream.images_at], normalised, wanted))
            for each, regression in zip(places, regressions, strict=True):
                held_out = batch % _HELD_OUT == _HELD_OUT - 1
                regression.add(given[each.stop - 1], expected[each.joint.start - 1], held_out=held_out)
        for regression in regressions:
            regression.finish()

    def _judge(
        self, upstream: _Upstream, added: Backbone, part: Resolved, places: Sequence[_Place]
    ) -> dict[str, float]:
        """How often the features of both backbones alone, and of each way to join them, are right, by name.

        What gives images is left out: it has no features of its own.
        """
        rows: dict[str, list[list[Tensor]]] = {
            name: [] for name in (part.backbone.id, *(each.entry.id for each in places))
        }
        if upstream.stages[-1] != IMAGE:
            rows = {upstream.name: [], **rows}
        own, truth = part.backbone.spec.stages, []
        for _, images, labels in self._batches("comparing where to join"):
            given = upstream.backbone.activations(images)
            alone = added.activations(_anew(images, self.given, part.input))
            if upstream.name in rows:
                rows[upstream.name].append(_pooled(given, upstream.stages, upstream.backbone))
            rows[part.backbone.id].append(_pooled(alone, own, added))
            for each in places:
                found, activation = given[: each.stop], each.adapter(given[each.stop - 1])
                for stage in added.stages[each.joint.start :]:
                    activation = stage(activation)
                    found.append(activation)
                rows[each.entry.id].append(_pooled(found, each.entry.spec.stages, added))
            truth.append(labels)
        return {name: _accuracy(found, torch.cat(truth), len(self.data.classes)) for name, found in rows.items()}


@dataclass(frozen=True, kw_only=True)
class _Upstream:
    """What comes before the backbone that is added."""

    name: str
    stages: Sequence[StageSpec]
    backbone: Backbone
    images_at: int = 0
    """The stage that would take the images that come last in it: those the whole takes, or those that a part of it
    gives."""
    images_of: int = 0
    """The part as whose input these are normalised."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A place where the next backbone may follow."""

    entry: ChainEntry
    """Everything up to that backbone."""
    joint: Joint
    stop: int
    """Stages of all that comes before."""
    adapter: Adapter

    @classmethod
    def of(cls, links: Sequence[BackboneEntry], joints: Sequence[Joint]) -> _Place:
        """With an untrained adapter."""
        entry = ChainEntry(links=tuple(links), joints=tuple(joints))
        return cls(entry=entry, joint=joints[-1], stop=entry.first_stages[-1], adapter=entry.adapter(len(joints) - 1))


def _anew(images: Tensor, given: ImageInput, wanted: ImageInput) -> Tensor:
    """Normalised images [N, 3, H, W] as another backbone wants them normalised."""
    pixels = Preprocess(given).to(images.device)
    other = Preprocess(wanted).to(images.device)
    return other.normalise(images * pixels.std + pixels.mean)


def _pooled(activations: Sequence[Any], stages: Sequence[StageSpec], backbone: Backbone) -> list[Tensor]:
    """What a probe sees: the spatial means [N, C] after each stage but the last, then the embedding."""
    taps = make_taps(range(len(stages) - 1), stages)
    means = [spatial_mean(activations[number], axes) for number, axes in taps.items()]
    return [rows.float().cpu() for rows in (*means, backbone.pool(activations[-1]))]


def _accuracy(batches: Sequence[Sequence[Tensor]], labels: Tensor, classes: int) -> float:
    """How many labels [N] ridge regression gets right with each image left out, with as many taps as are best."""
    groups = [torch.cat(rows).double() for rows in zip(*batches, strict=True)]
    grams = grams_from_the_top(torch.cat(groups, 1), [group.shape[1] for group in groups])
    return max(float(left_out_right(Spectrum.of_gram(gram), labels, classes).mean()) for gram in grams)
