"""One fine-tuning, new or resumed, taken to its end in its run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import nn

from zoo.artifacts.files import sha256_file, write_atomically
from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet, Split
from zoo.data.store import ImageStore, labels
from zoo.errors import ZooError
from zoo.finetune.boundary import ActivationBatches, Prefix, measure_costs, view_count
from zoo.finetune.cache import FeatureCache
from zoo.finetune.checkpoint import Position
from zoo.finetune.events import tell_plugins
from zoo.finetune.extract import Extractor, Surroundings
from zoo.finetune.loop import Splits, Training
from zoo.finetune.plan import Plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, Resolved
from zoo.nn.batches import Batches, Source, View
from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import place
from zoo.nn.head_fit import fit_head
from zoo.nn.inference import logits, score_logits
from zoo.nn.linear import Labelled
from zoo.nn.model import TransferModel, state_digest
from zoo.nn.tap_choice import choose_taps
from zoo.nn.taps import PooledTaps, feature_widths, make_taps
from zoo.progress import Progress

_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What training or fitting came to: logits and labels of the splits it did not see, before calibration."""

    position: Position
    held_out: Mapping[Split, Labelled]
    fitted: tuple[Split, ...]
    """The splits the final weights were fitted on."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fine-tuning with everything it works on."""

    request: FinetuneRequest
    resolved: Resolved
    data: DataSet
    plan: Plan
    store: ImageStore
    model: TransferModel
    """With its pretrained weights, untrained."""
    fabric: Fabric
    environment: Environment
    progress: Progress
    run: RunFolder

    def finish(self) -> dict[str, Any]:
        """Takes the run to its end, from its checkpoint where there is one, and gives its result record."""
        model, plan, run = self.model, self.plan, self.run
        model.keep_statistics = plan.keep_statistics
        model.freeze(plan.freeze_stages)
        place(model, self.fabric)
        frozen_sha256 = state_digest(model.frozen_modules())
        self._pristine  # noqa: B018 - noted before anything can change
        checkpoint = run.checkpoint / "state.safetensors"
        outcome = self._train(checkpoint) if plan.strategy.trains_backbone else self._probe()
        self._check_frozen(len(plan.phases) - 1)
        if "val" in outcome.held_out:
            found, truth = outcome.held_out["val"]
            model.temperature.fill_(fit_temperature(found, truth))
        scores = {split: score_logits(*pair) for split, pair in outcome.held_out.items()}
        val, test = scores.get("val"), scores.get("test")
        temperature = model.temperature.cpu()
        run.write_predictions(
            {split: (found / temperature).softmax(1).numpy() for split, (found, _) in outcome.held_out.items()}
        )
        write_atomically(run.weights, lambda path: save_file(_weights(model), path))
        position = outcome.position
        result = {
            "run": str(run.path),
            "strategy": plan.strategy.name,
            "backbone": self.resolved.backbone.id,
            "val_accuracy": val.accuracy if val else None,
            "test_accuracy": test.accuracy if test else None,
            "epochs": position.step / plan.steps_per_epoch,
            "steps": position.step,
            "best_step": position.best_step if val else position.step,
            "seconds": position.seconds,
            "train_images": sum(len(self.data.of(split)) for split in outcome.fitted),
            "fitted_splits": list(outcome.fitted),
            "frozen_stages": plan.freeze_stages,
            "frozen_sha256": frozen_sha256,
            "weights_sha256": sha256_file(run.weights),
            "plan": plan.to_json(),
        }
        run.write("result", result)
        checkpoint.unlink(missing_ok=True)
        tell_plugins(self.environment.catalogue.plugins, run.path, "done", result)
        return run.read("result")

    def _probe(self) -> _Outcome:
        """Fits the head on features, each image having gone through the backbone once."""
        began = time.monotonic()
        # A head that is solved in closed form is solved for the validation images too; others stop at training ones.
        linear = isinstance(self.model.head, nn.Linear)
        taps = self._choose_taps() if linear else 0
        held_out = self._fit_head(taps=taps, refit=True)
        self.model.eval()
        if self.data.of("test"):
            features, truth = self._features_of("test", taps)
            with torch.no_grad():
                found = self.model.classify(features.to(self.fabric.device)).float().cpu()
            held_out["test"] = found, truth
        fitted: tuple[Split, ...] = ("train", "val") if linear else ("train",)
        return _Outcome(position=Position(seconds=time.monotonic() - began), held_out=held_out, fitted=fitted)

    def _train(self, checkpoint: Path) -> _Outcome:
        """Trains what is not frozen."""
        if self.plan.strategy.head_from_probe and not checkpoint.is_file():
            self._fit_head(taps=0, refit=False)

        def record(row: Mapping[str, Any]) -> None:
            self.run.append_metrics(row)
            tell_plugins(self.environment.catalogue.plugins, self.run.path, "evaluation", row)

        training = Training(
            self.model,
            plan=self.plan,
            splits_of=self._splits,
            track_test=self.request.track_test,
            loss=self.resolved.head.spec.loss,
            fabric=self.fabric,
            seed=self.request.seed,
            checkpoint=checkpoint,
            checkpoint_seconds=self.request.checkpoint_seconds,
            record=record,
        )
        resumed = training.restore()
        self.run.truncate_metrics(training.position.step if resumed else -1)
        training.run(self.progress)
        splits: dict[Split, Source | None] = {"val": training.splits.val, "test": training.splits.test}
        held_out = {split: logits(self.model, source, fabric=self.fabric) for split, source in splits.items() if source}
        return _Outcome(position=training.position, held_out=held_out, fitted=("train",))

    def _splits(self, phase: int) -> Splits:
        """What phase number `phase` trains on and is measured on."""
        if phase:
            self._check_frozen(phase - 1)
        views = self._views(phase)
        if not views:
            return self._images
        frozen = self.plan.phases[phase].freeze_stages
        extractor = self._extractor(Prefix(self.model.backbone, frozen), f"stages to {frozen}", dtype=np.float16)

        def activations(split: Split) -> Source | None:
            samples = self.data.of(split)
            if not samples:
                return None
            return ActivationBatches(
                samples,
                extractor=extractor,
                entry=frozen,
                views=[
                    View(policy=self.plan.augment, seed=self.request.seed, number=number) if number else View()
                    for number in range(views)
                ],
                batch_size=self.plan.batch_size,
            )

        train = activations("train")
        assert train is not None
        return Splits(train=train, val=activations("val"), test=activations("test"))

    @cached_property
    def _images(self) -> Splits:
        def images(split: Split) -> Batches | None:
            samples, size = self.data.of(split), self.resolved.input
            if not samples:
                return None
            return Batches(samples, store=self.store, input_spec=size, batch_size=self.plan.batch_size)

        train = images("train")
        assert train is not None  # a data set without training images is refused when it is opened
        return Splits(train=train, val=images("val"), test=images("test"))

    def _views(self, phase: int) -> int:
        """Views in which activations at the boundary of a phase are kept, 0 where images go through every time.

        Decided once and written into the run: timings differ from one moment to the next, and a resumed run must go
        on with what it began with.
        """
        decisions = self.run.read_decisions()
        if str(phase) not in decisions:
            decisions[str(phase)] = self._decide(phase)
            self.run.write("decisions", {"phases": decisions})
        return int(decisions[str(phase)]["views"])

    def _decide(self, phase: int) -> dict[str, Any]:
        frozen, epochs = self.plan.phases[phase].freeze_stages, self.plan.phases[phase].epochs
        if frozen == 0 or self.request.cache == "never":
            return {"views": 0}
        views = self.request.views or (1 if self.plan.augment == "none" else view_count(epochs))
        images = self._images
        assert isinstance(images.train, Batches)
        self.model.freeze(frozen)
        costs = measure_costs(self.model, images.train, frozen=frozen, policy=self.plan.augment, fabric=self.fabric)
        if costs is None:
            return {"views": 0, "why": "activations are not single tensors"}
        pays, why = costs.decide(
            views=views,
            images=len(self.data.of("train")),
            epochs=epochs,
            val_images=len(self.data.of("val")),
            evaluations=math.ceil(epochs / self.plan.eval_epochs),
        )
        if not (pays or self.request.cache == "always"):
            return {"views": 0, **why}
        self.progress.say(
            f"stages 0 to {frozen - 1} are run once, on {views} views of each image: about "
            f"{why['seconds_kept']:.0f} s instead of {why['seconds_direct']:.0f} s"
        )
        return {"views": views, **why}

    @cached_property
    def _pristine(self) -> list[str]:
        """Digests of the stages and the pool as they were before training."""
        return [state_digest([module]) for module in (*self.model.backbone.stages, self.model.backbone.pool)]

    def _check_frozen(self, phase: int) -> None:
        self.model.freeze(self.plan.phases[phase].freeze_stages)
        for number, module in enumerate(self.model.frozen_modules()):
            if state_digest([module]) != self._pristine[number]:
                raise ZooError(
                    f"frozen stage {number} of {self.resolved.backbone.id} changed in training; "
                    "report this as a bug of Zoo"
                )

    def _choose_taps(self) -> int:
        """Lets the head of a probe see as many lower stages as help, and gives their number."""
        spec, record = self.resolved.staged, self.run.read_model()
        lower = range(len(spec.stages) - 1)
        train = self._features_of("train", len(lower))
        count = choose_taps(train, feature_widths(spec, lower), classes=len(self.data.classes), seed=self.request.seed)
        taps = tuple(lower)[len(lower) - count :]
        self.run.write_model(asdict(self.request), replace(record, taps=taps))
        self.model.taps = make_taps(taps, spec.stages)
        self.model.head = self.resolved.head.spec.build(
            sum(feature_widths(spec, taps)), len(self.data.classes), record.head_options
        )
        if taps:
            self.progress.say(
                f"the head also sees stages {', '.join(map(str, taps))}: they tell more than the last one"
            )
        return count

    def _features_of(self, split: Split, taps: int) -> Labelled:
        """Features of a split as the pretrained backbone gives them: those of the uppermost `taps` taps, the embedding.

        All taps are kept on disk together, so that a probe and the start of another strategy share one pass.
        """
        spec, samples = self.resolved.staged, self.data.of(split)
        rows = self._features.of(samples, f"features of {_NAMES[split]} images")
        lower = range(len(spec.stages) - 1)
        width = sum(feature_widths(spec, tuple(lower)[len(lower) - taps :]))
        return torch.from_numpy(rows[:, -width:].copy()), torch.from_numpy(labels(samples))

    @cached_property
    def _features(self) -> Extractor:
        stages = self.resolved.staged.stages
        module = PooledTaps(self.model.backbone, make_taps(range(len(stages) - 1), stages))
        return self._extractor(module, "taps of all stages")

    def _extractor(self, module: nn.Module, name: str, dtype: type[np.floating[Any]] = np.float32) -> Extractor:
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

    def _fit_head(self, *, taps: int, refit: bool) -> dict[Split, Labelled]:
        """Puts the best head on pretrained features; logits and labels of the validation images."""
        spec = self.resolved.staged
        widths = feature_widths(spec, range(len(spec.stages) - 1))
        self.model.head.cpu()
        unseen = fit_head(
            self.model.head,
            train=self._features_of("train", taps),
            val=self._features_of("val", taps) if self.data.of("val") else None,
            loss=self.resolved.head.spec.loss,
            seed=self.request.seed,
            refit=refit,
            progress=self.progress,
            widths=widths[-1 - taps :],
        )
        self.model.head.to(self.fabric.device)
        return {"val": unseen} if unseen is not None else {}


def _weights(model: TransferModel) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
