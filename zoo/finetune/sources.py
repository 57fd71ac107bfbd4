"""What a run's images become on their way into training: batches, kept activations, features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.data.dataset import Sample, Split
from zoo.data.store import labels
from zoo.errors import UsageError
from zoo.finetune.boundary import ActivationBatches, Prefix, measure_costs, view_count
from zoo.finetune.cache import FeatureCache
from zoo.finetune.extract import Extractor, Surroundings
from zoo.finetune.loop import Splits
from zoo.finetune.work import Work
from zoo.nn.batches import Batches, Source, View
from zoo.nn.linear import Labelled
from zoo.nn.taps import PooledTaps, feature_widths, make_taps

_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


class Sources(Work):
    """The images of one run as its model takes them in."""

    @property
    def taps(self) -> range:
        """The stages that can be tapped beside the embedding."""
        return range(len(self.resolved.staged.stages) - 1)

    def widths(self, taps: int) -> list[int]:
        """How many features each of the uppermost `taps` taps gives, then how many the embedding has."""
        return feature_widths(self.resolved.staged, self.taps[len(self.taps) - taps :])

    def features(self, split: Split, *, taps: int, views: int = 1) -> Labelled:
        """Features [N, views, D] of a split as the pretrained backbone gives them, in groups of `widths`, and labels
        [N].

        All taps are kept on disk together, so that a probe and the start of another strategy share one pass.
        """
        return self.features_of(self.data.of(split), f"features of {_NAMES[split]} images", taps=taps, views=views)

    def features_of(self, samples: Sequence[Sample], what: str, *, taps: int, views: int = 1) -> Labelled:
        """Like `features`, of any samples, called `what` in the progress."""
        width = sum(self.widths(taps))
        rows = [
            self._extractor.of(samples, what if views == 1 else f"{what}, view {number} of {views}", view)[:, -width:]
            for number, view in enumerate(self._views(views), 1)
        ]
        return torch.from_numpy(np.stack(rows, 1)), torch.from_numpy(labels(samples))

    def _views(self, count: int) -> list[View]:
        """The plain view, then changed ones."""
        changed = (View(policy=self.plan.augment, seed=self.request.seed, number=number) for number in range(1, count))
        return [View(), *changed]

    @cached_property
    def _extractor(self) -> Extractor:
        taps = make_taps(self.taps, self.resolved.staged.stages)
        return self.extractor(PooledTaps(self.model.backbone, taps), "taps of all stages")

    def extractor(self, module: nn.Module, name: str, dtype: type[np.floating[Any]] = np.float32) -> Extractor:
        """What gives the rows of a frozen `module`, called `name`, for images of this run."""
        spec, size, cache = self.resolved.staged, self.resolved.input, self.environment.cache
        area = size.height * size.width / (spec.input.height * spec.input.width)
        around = Surroundings(
            store=self.store,
            input_spec=size,
            fabric=self.fabric,
            cache=FeatureCache(cache / "features", progress=self.progress),
            engines=cache / "engines",
            progress=self.progress,
        )
        return Extractor(module, name=name, macs=round(spec.macs * area), around=around, dtype=dtype)

    @cached_property
    def images(self) -> Splits:
        """All splits as images."""

        def batches(split: Split) -> Batches | None:
            samples, size = self.data.of(split), self.resolved.input
            if not samples:
                return None
            return Batches(
                samples,
                store=self.store,
                input_spec=size,
                batch_size=self.plan.images_per_step,
                readers=0 if self.fabric.device.type == "cpu" else torch.get_num_threads(),
            )

        return _splits(batches)

    def of_phase(self, phase: int) -> Splits:
        """All splits as phase number `phase` takes them in: activations where keeping these pays, else images."""
        views = int(self.run.decide(f"cache of phase {phase}", lambda: self._decide(phase))["views"])
        if not views:
            return self.images
        frozen = self.plan.phases[phase].freeze_stages
        extractor = self.extractor(Prefix(self.model.backbone, frozen), f"stages to {frozen}", dtype=np.float16)

        def activations(split: Split) -> Source | None:
            samples = self.data.of(split)
            if not samples:
                return None
            return ActivationBatches(
                samples,
                extractor=extractor,
                entry=frozen,
                views=self._views(views),
                batch_size=self.plan.images_per_step,
            )

        return _splits(activations)

    def _decide(self, phase: int) -> dict[str, Any]:
        """In how many views activations at the boundary of a phase are kept (0: not at all), and why."""
        frozen, epochs = self.plan.phases[phase].freeze_stages, self.plan.phases[phase].epochs
        if frozen == 0 or self.request.cache == "never":
            return {"views": 0}
        train = self.images.train
        assert isinstance(train, Batches)
        views = self.request.views or (1 if self.plan.augment == "none" else view_count(epochs))
        self.model.freeze(frozen)
        costs = measure_costs(self.model, train, frozen=frozen, policy=self.plan.augment, fabric=self.fabric)
        if costs is None and self.request.cache == "always":
            raise UsageError("--cache always: activations of this backbone are not single tensors; leave it out")
        if costs is None:
            return {"views": 0, "why": "activations are not single tensors"}
        pays, why = costs.decide(
            views=views,
            images=len(train.samples),
            epochs=epochs,
            val_images=len(self.data.of("val")),
            evaluations=math.ceil(epochs / self.plan.eval_epochs),
            by_counts=self.request.deterministic,
        )
        if self.request.cache == "always" and not costs.representable:
            raise UsageError(
                f"--cache always: activations up to {costs.largest:.1e} are too large to be kept in half precision; "
                "leave it out"
            )
        if not (pays or self.request.cache == "always"):
            return {"views": 0, **why}
        shown = "the plain view" if views == 1 else f"{views} views"
        self.progress.say(
            f"stages 0 to {frozen - 1} run once, on {shown} of each image: about {why['seconds_kept']:.0f} s "
            f"instead of {why['seconds_direct']:.0f} s"
        )
        return {"views": views, **why}


def _splits(source: Callable[[Split], Source | None]) -> Splits:
    train = source("train")
    assert train is not None  # a data set without training images is refused when it is opened
    return Splits(train=train, val=source("val"), test=source("test"))
