"""One fine-tuning, new or resumed, taken to its end in its run folder."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo.artifacts.files import sha256_file
from zoo.data.dataset import Split
from zoo.data.store import labels
from zoo.errors import RunError, ZooError
from zoo.finetune.checkpoint import Position
from zoo.finetune.compiling import measure_steps
from zoo.finetune.events import tell_plugins
from zoo.finetune.loop import Training
from zoo.finetune.objective import Network, Objective, Relation, SourceLogits, StartingPoint
from zoo.finetune.plan import Plan
from zoo.finetune.race import race
from zoo.finetune.sources import Sources
from zoo.finetune.surgical import relative_gradients
from zoo.finetune.work import Work
from zoo.metrics import calibration_error
from zoo.nn.adapters import Adapters
from zoo.nn.average import Weights, greedy_soup, interpolate
from zoo.nn.batches import Source
from zoo.nn.build import build_source_head
from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import derive_seed, deterministic, device_name, place
from zoo.nn.head_fit import fit_head
from zoo.nn.inference import features, logits, score_logits
from zoo.nn.linear import Labelled, log_shares
from zoo.nn.model import state_digest
from zoo.nn.tap_choice import choose_taps
from zoo.nn.taps import make_taps
from zoo.nn.team import share
from zoo.nn.weights import save_tensors

_SURGICAL_BATCHES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What training or fitting came to: logits and labels of the splits it did not see, before calibration."""

    plan: Plan
    """With the learning rates that were used."""
    position: Position
    held_out: Mapping[Split, Labelled]
    fitted: tuple[Split, ...]
    """The splits the final weights were fitted on."""
    averages: Mapping[str, float] = field(default_factory=dict)
    """What became of averaging weights: how many went into the soup, where between start and end they lie."""


class Job(Work):
    """One fine-tuning, from the untrained model to the result."""

    def finish(self) -> dict[str, Any]:
        """Takes the run to its end, from its checkpoint where there is one, and gives its result record.

        Of several processes, all of which must call this, the first one gives it.
        """
        model, plan, run = self.model, self.plan, self.run
        model.keep_statistics = plan.keep_statistics
        model.freeze(plan.freeze_stages)
        place(model, self.fabric)
        frozen_sha256 = state_digest(model.frozen_modules())
        _ = self._pristine  # noted now, before anything can change
        checkpoint = run.checkpoint / "state.safetensors"
        with deterministic(self.request.deterministic):
            outcome = self._train(checkpoint) if plan.strategy.trains_backbone else self._probe()
        self._check_frozen(len(plan.phases) - 1)
        if "val" in outcome.held_out:
            found, truth = outcome.held_out["val"]
            model.temperature.fill_(fit_temperature(found, truth))
        elif plan.strategy.trains_backbone or not isinstance(model.head, nn.Linear):
            self.progress.say("no validation images to calibrate by: expect the confidences to be too high")
        scores = {split: score_logits(*pair) for split, pair in outcome.held_out.items()}
        val, test = scores.get("val"), scores.get("test")
        temperature = model.temperature.cpu()
        if not self.fabric.is_global_zero:
            return {}
        probabilities: dict[str, NDArray[np.float32]] = {
            split: (found / temperature).softmax(1).numpy() for split, (found, _) in outcome.held_out.items()
        }
        run.write_predictions(probabilities)
        save_tensors(run.weights, model.state_dict())
        position = outcome.position
        result = {
            "run": str(run.path),
            "strategy": plan.strategy.name,
            "backbone": self.resolved.backbone.id,
            "val_accuracy": val.accuracy if val else None,
            "test_accuracy": test.accuracy if test else None,
            "test_ece": calibration_error(
                probabilities["test"].max(1), probabilities["test"].argmax(1) == outcome.held_out["test"][1].numpy()
            )
            if test
            else None,
            "epochs": position.step / plan.steps_per_epoch,
            "steps": position.step,
            "best_step": position.best_step if val or position.diverged else position.step,
            "diverged": position.diverged,
            **outcome.averages,
            "seconds": position.seconds,
            "device": device_name(self.fabric),
            "train_images": sum(len(self.data.of(split)) for split in outcome.fitted),
            "fitted_splits": list(outcome.fitted),
            "frozen_stages": plan.freeze_stages,
            "frozen_sha256": frozen_sha256,
            "weights_sha256": sha256_file(run.weights),
            "plan": outcome.plan.to_json(),
        }
        # Told before it is done: a cut in between makes plugins hear it twice rather than never.
        tell_plugins(self.environment.catalogue.plugins, run.path, "done", result)
        run.write("result", result)
        for path in run.checkpoint.glob("*"):  # what a kill in the middle of saving left, too
            path.unlink()
        return run.read("result")

    @cached_property
    def _sources(self) -> Sources:
        return Sources.of(self)

    def _probe(self) -> _Outcome:
        """Fits the head on features, each image having gone through the backbone once."""
        began = time.monotonic()
        # A head that is solved in closed form is solved for the validation images too; others stop at training ones.
        linear = isinstance(self.model.head, nn.Linear)
        taps = self.request.taps
        if taps is None:
            taps = self._choose_taps() if linear else 0
        if taps:
            self._see_taps(taps)
        held_out = self._fit_head(taps=taps, refit=linear)
        self.model.eval()
        if self.data.of("test"):
            features, truth = self._sources.features("test", taps=taps)
            with torch.no_grad():
                found = self.model.classify(features[:, 0].to(self.fabric.device)).float().cpu()
            held_out["test"] = found, truth
        fitted: tuple[Split, ...] = ("train", "val") if linear and self.data.of("val") else ("train",)
        position = Position(seconds=time.monotonic() - began)
        return _Outcome(plan=self.plan, position=position, held_out=held_out, fitted=fitted)

    def _choose_taps(self) -> int:
        """How many lower stages the head of a probe should see."""
        every = len(self._sources.taps)
        features, truth = self._sources.features("train", taps=every)
        train, widths = (features[:, 0], truth), self._sources.widths(every)
        count = choose_taps(train, widths, classes=len(self.data.classes), seed=self.request.seed)
        if count:
            taps = self._sources.taps[every - count :]
            self.progress.say(
                f"the head also sees stages {', '.join(map(str, taps))}: they tell more than the last one"
            )
        return count

    def _see_taps(self, count: int) -> None:
        """Gives the model a head that sees so many lower stages beside the embedding."""
        sources, record = self._sources, self.run.read_model()
        taps = tuple(sources.taps[len(sources.taps) - count :])
        self.run.write_model(asdict(self.request), replace(record, taps=taps))
        self.model.taps = make_taps(taps, self.resolved.staged.stages)
        width, classes = sum(sources.widths(count)), len(self.data.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.request.seed, "init"))
            self.model.head = self.resolved.head.spec.build(width, classes, record.head_options)

    def _fit_head(self, *, taps: int, refit: bool) -> dict[Split, Labelled]:
        """Puts the best head on pretrained features; logits and labels of the validation images."""
        sources, views = self._sources, self.plan.probe_views
        train = sources.features("train", taps=taps, views=views)
        val = sources.features("val", taps=taps, views=views if refit else 1) if self.data.of("val") else None
        unseen = self._fit(train, val, widths=sources.widths(taps), refit=refit)
        return {"val": unseen} if unseen is not None else {}

    def _fit(self, train: Labelled, val: Labelled | None, *, widths: Sequence[int], refit: bool) -> Labelled | None:
        """Fits the head, see `fit_head`, for all who train together."""
        self.model.head.cpu()
        unseen = fit_head(
            self.model.head,
            train=train,
            val=val,
            loss=self.resolved.head.spec.loss,
            seed=self.request.seed,
            refit=refit,
            balance=self.plan.balance,
            progress=self.progress,
            widths=widths,
        )
        self.model.head.to(self.fabric.device)
        share(self.model.head.parameters(), self.fabric)
        return unseen

    def _train(self, checkpoint: Path) -> _Outcome:
        """Trains what is not frozen."""
        began = time.monotonic()
        if self.plan.strategy.head_from_probe and not checkpoint.is_file():
            self._fit_head(taps=0, refit=False)
        objective = self._objective()
        plan, others, adapters = self.plan, list[Weights](), self._adapters()
        if plan.strategy.surgical:
            scales = self.run.decide("relative gradients of stages", lambda: self._relative_gradients(objective))
            plan = replace(plan, stage_lrs=tuple(lr * scale for lr, scale in zip(plan.stage_lrs, scales, strict=True)))

        def start(plan: Plan, checkpoint: Path, record: Callable[[Mapping[str, Any]], None]) -> Training:
            source_head = place(self._source_head(), self.fabric) if objective.relation is not None else None
            return Training(
                Network(self.model, source_head),
                plan=plan,
                splits_of=self._sources.of_phase,
                compiles=partial(self._compiles, objective),
                check_frozen=self._check_frozen,
                track_test=self.request.track_test,
                objective=objective,
                fabric=self.fabric,
                seed=self.request.seed,
                checkpoint=checkpoint,
                checkpoint_seconds=self.request.checkpoint_seconds,
                record=record,
            )

        if plan.lr_race:
            plan, others = race(self.model, plan, start, self.run, self.progress)
        training = start(plan, checkpoint, self._record)
        resumed = training.restore()
        training.position.seconds += time.monotonic() - began  # the head, the race: they cost time in each sitting
        self.run.truncate_metrics(training.position.step if resumed else -1)
        training.run(self.progress)
        averages = self._average(training, others)
        if adapters is not None:
            adapters.merge()
        if plan.balance and training.splits.val and isinstance(self.model.head, nn.Linear):
            averages["balanced_head"] = self._fit_balanced_head(training)
        splits: dict[Split, Source | None] = {"val": training.splits.val, "test": training.splits.test}
        held_out = {split: logits(self.model, source, fabric=self.fabric) for split, source in splits.items() if source}
        return _Outcome(plan=plan, position=training.position, held_out=held_out, fitted=("train",), averages=averages)

    def _compiles(self, objective: Objective, phase: int, network: Network, source: Source) -> bool:
        """Whether a phase trains through torch.compile."""
        choice = self.request.compile
        if choice == "auto" and (self.fabric.device.type == "cpu" or self.request.deterministic):
            return False  # measured to be slower on CPUs; and what is measured does not come out the same each time

        def measure() -> dict[str, Any]:
            steps = math.inf if choice == "always" else self.plan.phases[phase].epochs * self.plan.steps_per_epoch
            try:
                times = measure_steps(
                    network, source, objective=objective, policy=self.plan.augment, steps=steps, fabric=self.fabric
                )
            except RunError as error:
                if choice == "always":
                    raise RunError(f"{error}; leave out --compile always") from error
                self.progress.say(f"{error}; training goes on as usual")
                return {"compile": False, "why": str(error)}
            if times.tried:
                self.progress.say(
                    f"compiled in {times.compiling:.0f} s: a step takes {times.compiled / times.usual:.2f} of the "
                    f"usual {times.usual:.2g} s"
                )
            return {"compile": choice == "always" or times.pays, **times.to_json()}

        return bool(self.run.decide(f"compile phase {phase}", measure)["compile"])

    def _adapters(self) -> Adapters | None:
        """Adapters on the model, where the strategy trains these in place of its weights."""
        kind, seed = self.plan.strategy.adapters, derive_seed(self.request.seed, "adapters")
        return Adapters(self.model, kind=kind, rank=self.plan.rank, seed=seed) if kind else None

    def _record(self, row: Mapping[str, Any]) -> None:
        self.run.append_metrics(row)
        if self.fabric.is_global_zero:
            tell_plugins(self.environment.catalogue.plugins, self.run.path, "evaluation", row)

    def _objective(self) -> Objective:
        """What training minimises; to be made while the backbone has its pretrained weights."""
        plan, train = self.plan, self.data.of("train")
        truth, classes = torch.from_numpy(labels(train)).to(self.fabric.device), len(self.data.classes)
        relation = None
        if plan.co_tuning:
            module = place(SourceLogits(self.model.backbone, self._source_head()), self.fabric)
            rows = self._sources.extractor(module, "source logits").of(train, "source classes of training images")
            source = torch.from_numpy(rows.copy()).to(self.fabric.device)
            relation = Relation.of(source, truth, classes, plan.co_tuning)
        return Objective(
            loss=self.resolved.head.spec.loss,
            log_prior=log_shares(truth, classes) if plan.balance else None,
            start=StartingPoint.of(self.model, plan.l2_sp) if plan.l2_sp else None,
            relation=relation,
        )

    def _source_head(self) -> nn.Module:
        return build_source_head(self.resolved.backbone, self.resolved.weights)

    def _relative_gradients(self, objective: Objective) -> list[float]:
        # Whole batches on every device: the norms of gradients of their parts would be others.
        batches = self._sources.images.train.augmented("none", seed=self.request.seed, epoch=0)
        few = itertools.islice(batches, _SURGICAL_BATCHES)
        return relative_gradients(self.model, few, objective=objective, fabric=self.fabric)

    def _average(self, training: Training, others: list[Weights]) -> dict[str, float]:
        """Looks for weights better than the best of the training, between these and others, where the plan says so."""
        done, judged = dict[str, float](), training.splits.val is not None

        def judge() -> tuple[float, float]:
            training.estimate_statistics()
            return training.judge()

        if others and judged:
            done["soup"] = greedy_soup(self.model, others, judge)
        if self.plan.interpolate:
            done["interpolation"] = interpolate(self.model, training.start, judge if judged else None)
        if done:
            training.estimate_statistics()
        return done

    def _fit_balanced_head(self, training: Training) -> bool:
        """Fits the head anew on what the trained backbone gives, classes counting alike; whether that is better.

        Kang et al. 2020 (classifier re-training); the validation images tell.
        """
        assert training.splits.val is not None
        usual, before = deepcopy(self.model.head.state_dict()), training.judge()
        found = (
            features(self.model, source, fabric=self.fabric, progress=self.progress)
            for source in (training.splits.train, training.splits.val)
        )
        train, val = ((rows[:, None], truth) for rows, truth in found)  # one view of each
        self._fit(train, val, widths=[train[0].shape[2]], refit=False)
        better = training.judge() > before
        if not better:
            self.model.head.load_state_dict(usual)
        return better

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
