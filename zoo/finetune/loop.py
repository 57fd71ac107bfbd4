"""The training loop: steps, evaluations, early stopping, checkpoints; exact when resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from zoo.errors import RunError
from zoo.finetune.checkpoint import Position, load_checkpoint, save_checkpoint
from zoo.finetune.compiling import compiled
from zoo.finetune.interrupt import catch_interrupt
from zoo.finetune.objective import Network, Objective
from zoo.finetune.plan import Plan
from zoo.nn.average import MovingAverage, put, trainable
from zoo.nn.batches import Source, batch_length
from zoo.nn.engine import derive_seed, place
from zoo.nn.fold import folded
from zoo.nn.inference import score
from zoo.nn.statistics import estimate_statistics, estimated_statistics
from zoo.nn.team import anywhere, mean, share, share_of, share_statistics
from zoo.progress import Progress, Task

_WARMUP = 0.1
_CLIP_NORM = 1.0


class InterruptedTrainingError(Exception):
    """Training was asked to stop and has saved its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Where the samples of each split come from; `val` chooses, `test` is only measured."""

    train: Source
    val: Source | None
    test: Source | None


class Training:
    """One training of a model under a plan."""

    def __init__(
        self,
        network: Network,
        *,
        plan: Plan,
        splits_of: Callable[[int], Splits],
        compiles: Callable[[int, Network, Source], bool],
        check_frozen: Callable[[int], None],
        track_test: bool,
        objective: Objective,
        fabric: Fabric,
        seed: int,
        checkpoint: Path,
        checkpoint_seconds: float,
        record: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`splits_of` gives what a phase trains on, when it begins, `compiles` whether it trains through torch.compile,
        and `check_frozen` is called when it ends.

        `record` gets one row per evaluation; `track_test` measures the test split, too. `checkpoint` is the file that
        holds the state in between.
        """
        self._model = network.model
        self._plan = plan
        self._splits_of = splits_of
        self._compiles = compiles
        self._check_frozen = check_frozen
        self._track_test = track_test
        self._objective = objective
        self._fabric = fabric
        self._seed = seed
        self._checkpoint = checkpoint
        self._checkpoint_seconds = checkpoint_seconds
        self._record = record
        # Groups are made once, of all that will ever be trained; phases only thaw.
        self._model.freeze(plan.freeze_stages)
        if not plan.keep_statistics:
            share_statistics(network, fabric)
        self._network = network
        self._optimizer: Any = fabric.setup_optimizers(_make_optimizer(network, plan, fabric))
        self._share = share_of(fabric)
        self.start = trainable(self._model)
        self._average = MovingAverage(self._model) if plan.average else None
        self._best: dict[str, Tensor] = {}
        self._phase = -1
        self.splits: Splits
        self.position = Position()

    def restore(self) -> bool:
        """Goes back to the checkpoint, if there is one."""
        saved = load_checkpoint(self._checkpoint, self._fabric.device)
        if saved is None:
            return False
        self.position, tensors, extra = saved
        self._network.load_state_dict(_with_prefix(tensors, "network."))
        self.start = _with_prefix(tensors, "start.")
        if self._average is not None:
            self._average.weights = _with_prefix(tensors, "average.")
        self._best = _with_prefix(tensors, "best.")
        state = self._optimizer.state_dict()
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state["state"] = {
            number: {
                # Laid out as its parameter: the fused optimiser goes through memory and not through indices.
                name: torch.empty_like(parameters[number]).copy_(value) if value.ndim else value
                for name, value in _with_prefix(tensors, f"optimizer.{number}.").items()
            }
            for number in map(int, extra["optimizer"])
        }
        self._optimizer.load_state_dict(state)
        self._fabric.strategy.precision.load_state_dict(extra["precision"])
        return True

    def run(self, progress: Progress) -> None:
        """Trains to the end (or to early stopping) and leaves the best weights in the model.

        Where the loss is no longer a number, training ends with a remark, and with the start where there is no
        validation split to tell which weights were good; with RunError where the start has a random head. Raises
        InterruptedTrainingError after a Ctrl-C.
        """
        position, total, per_epoch = self.position, self._plan.steps, self._plan.steps_per_epoch
        self._enter_phase()
        if position.step == 0 and not self._best:
            self._evaluate()
        saved_at = noted_at = time.monotonic()
        with (
            folded(self._model),
            catch_interrupt(patient=self._share.world > 1) as interrupt,
            progress.task("training", total) as task,
        ):
            task.advance(position.step)
            while position.step < total and not position.stopped:
                self._enter_phase()
                epoch, start = divmod(position.step, per_epoch)
                batches = self.splits.train.augmented(
                    self._plan.augment, seed=self._seed, epoch=epoch, start=start, share=self._share
                )
                for inputs, labels in batches:
                    self._step(inputs, labels, task)
                    if not position.diverged and self._is_evaluation(position.step):
                        self._evaluate()
                    now = time.monotonic()
                    position.seconds += now - noted_at
                    noted_at = now
                    requested = anywhere(self._fabric, interrupt.requested)
                    if requested or now - saved_at >= self._checkpoint_seconds:
                        self._save()
                        saved_at = time.monotonic()
                    if requested:
                        raise InterruptedTrainingError
                    if position.stopped:
                        break
        if position.diverged:
            progress.say(
                f"training diverged at step {position.step + 1}: the loss is no number any more; "
                f"kept the best weights so far (step {position.best_step}); give a lower --lr"
            )
        if self._best:
            self._model.load_state_dict(self._best)
        elif position.diverged:
            put(self._model, self.start)
        elif self._average is not None:
            put(self._model, self._average.weights)
        if not all(value.isfinite().all() for value in trainable(self._model).values()):
            raise RunError(f"training diverged: weights are no numbers after step {position.step}; give a lower --lr")
        self.estimate_statistics()

    def _enter_phase(self) -> None:
        """Freezes and loads what the phase of the next step needs, unless it is under way."""
        number = self._plan.phase_of(self.position.step // self._plan.steps_per_epoch)
        if number == self._phase:
            return
        if self._phase >= 0:
            self._check_frozen(self._phase)
        self.splits = self._splits_of(number)
        self._model.freeze(self._plan.phases[number].freeze_stages)
        compiles = self._compiles(number, self._network, self.splits.train)
        # Wrapped anew, for DDP waits for the gradients of all that was thawed when it came to know the network.
        self._wrapped = self._fabric.setup_module(compiled(self._network) if compiles else self._network)
        self._phase = number
        if self.position.step == self._plan.first_step(number):
            self.position.stale = 0  # a plateau under the phase before says nothing about this one

    def _step(self, inputs: Tensor, labels: Tensor, task: Task) -> None:
        position = self.position
        factor = _schedule(position.step, self._plan.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self._model.train()
        torch.manual_seed(derive_seed(self._seed, "step", position.step, self._share.rank))  # dropout
        # The labels first, too: behind the forward pass they would wait for its end.
        inputs, labels = place(inputs, self._fabric), place(labels, self._fabric)
        outputs = self._wrapped(inputs, self.splits.train.entry)
        # Shares may differ in size by one; the mean over devices of this is the mean over all samples of the batch.
        batch = batch_length(self.splits.train, position.step % self._plan.steps_per_epoch)
        weight = len(labels) * self._share.world / batch
        loss = weight * self._objective(outputs, labels)
        self._fabric.backward(loss)
        value = mean(self._fabric, float(loss.detach()))  # only now, when a GPU knows what to do in the meantime
        if not math.isfinite(value):
            self._optimizer.zero_grad()
            # Where a head was fitted first, the start is a model to go back to.
            if not self._best and not self._plan.strategy.head_from_probe:
                raise RunError(f"training diverged: loss {value} at step {position.step + 1}; give a lower --lr")
            position.diverged = position.stopped = True
            return
        self._fabric.clip_gradients(self._wrapped, self._optimizer, max_norm=_CLIP_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update(position.step)
        position.step += 1
        position.loss_sum += value
        position.loss_count += 1
        task.advance(1, f"loss {value:.3f}")

    def _is_evaluation(self, step: int) -> bool:
        return step == self._plan.steps or step % (self._plan.eval_epochs * self._plan.steps_per_epoch) == 0

    def estimate_statistics(self) -> None:
        """Gives BatchNorm, where its statistics are trained, those that belong to the model's present weights."""
        if not self._plan.keep_statistics:
            estimate_statistics(self._model, self.splits.train, **self._for_statistics)

    @property
    def _for_statistics(self) -> dict[str, Any]:
        return {"policy": self._plan.augment, "seed": self._seed, "fabric": self._fabric}

    def judge(self) -> tuple[float, float]:
        """How good the model is on the validation split; larger is better."""
        assert self.splits.val is not None
        return score(self._model, self.splits.val, fabric=self._fabric).merit(balance=self._plan.balance)

    def _evaluate(self) -> None:
        with self._average.applied() if self._average is not None else nullcontext():
            share(self._model.buffers(), self._fabric)  # running statistics: all that training leaves different
            with (
                nullcontext()
                if self._plan.keep_statistics
                else estimated_statistics(self._model, self.splits.train, **self._for_statistics)
            ):
                self._evaluate_weights()

    def _evaluate_weights(self) -> None:
        position, splits = self.position, self.splits
        row: dict[str, Any] = {
            "event": "evaluation",
            "step": position.step,
            "epoch": position.step / self._plan.steps_per_epoch,
            "train_loss": position.loss_sum / position.loss_count if position.loss_count else None,
        }
        position.loss_sum, position.loss_count = 0.0, 0
        if self._track_test and splits.test is not None:
            row["test_accuracy"] = score(self._model, splits.test, fabric=self._fabric).accuracy
        if splits.val is not None:
            val = score(self._model, splits.val, fabric=self._fabric)
            row |= {"val_loss": val.loss, "val_accuracy": val.accuracy}
            merit = val.merit(balance=self._plan.balance)
            if merit > position.best_merit:
                position.best_merit = merit
                position.best_step, position.stale = position.step, 0
                self._best = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
            else:
                position.stale += 1
                # A plateau while much is still frozen is no reason to stop: the next phase thaws more.
                in_last_phase = self._phase == len(self._plan.phases) - 1
                position.stopped = in_last_phase and 0 < self._plan.patience <= position.stale
        self._record(row)

    def _save(self) -> None:
        if not self._fabric.is_global_zero:
            return
        state = self._optimizer.state_dict()["state"]
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        tensors |= {f"start.{name}": tensor for name, tensor in self.start.items()}
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.weights.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for number, values in state.items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
        precision = self._fabric.strategy.precision.state_dict()
        save_checkpoint(self._checkpoint, self.position, tensors, {"optimizer": list(state), "precision": precision})


def _make_optimizer(network: Network, plan: Plan, fabric: Fabric) -> Any:
    model, groups = network.model, list[dict[str, Any]]()
    parts = [*zip(model.backbone.stages, plan.stage_lrs, strict=True)]
    parts += [(model.backbone.pool, plan.stage_lrs[-1]), (model.head, plan.head_lr)]
    if network.source_head is not None:
        parts.append((network.source_head, plan.stage_lrs[-1]))
    # The penalty for leaving the starting point takes the place of weight decay (Li et al. 2018, section 4).
    weight_decay = 0.0 if plan.l2_sp else plan.strategy.weight_decay
    for module, lr in parts:
        # Decaying norms and biases only hurts.
        decayed = [value for value in module.parameters() if value.requires_grad and value.ndim > 1]
        plain = [value for value in module.parameters() if value.requires_grad and value.ndim <= 1]
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0)):
            if parameters:
                groups.append({"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    # Not with float16, whose gradients the fused form would scale back by itself, after they have been clipped.
    return torch.optim.AdamW(groups, fused=fabric.strategy.precision.precision != "16-mixed")


def _schedule(step: int, total: int) -> float:
    """Linear warm-up over the first tenth, then half a cosine to zero."""
    warmup = max(1, round(total * _WARMUP))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _with_prefix(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
