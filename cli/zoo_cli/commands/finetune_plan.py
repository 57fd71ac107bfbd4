"""`zoo finetune --dry-run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from zoo_cli.render import Output, count
from zoo_cli.settings import environment

if TYPE_CHECKING:
    from zoo.finetune.request import FinetuneRequest


def show_plan(out: Output, request: FinetuneRequest) -> None:
    """Says what would be trained, part by part."""
    from zoo.finetune.run import dry_run

    found = dry_run(request, environment(), out.progress)
    plan, groups, data = found.plan, found.groups, found.data

    def words() -> None:
        counts = ", ".join(f"{number} {split}" for split, number in sorted(data.counts().items()))
        out.line(f"{plan.strategy.name}: {plan.strategy.summary}")
        out.line(f"why: {found.why}")
        out.line(f"{len(data.classes)} classes, {counts}; input {plan.input.height} x {plan.input.width}")
        out.table(
            ["part", "state", "parameters", "learning rate"],
            [
                (
                    group.name,
                    "frozen" if group.frozen else "trainable",
                    group.params,
                    "-" if group.frozen else f"{group.lr:.1e}" if group.lr else "computed",
                )
                for group in groups
            ],
        )
        if plan.strategy.surgical:
            out.line("the learning rates of stages are the highest; the first batches say how much of it each one gets")
        if len(plan.phases) > 1:
            steps = ", ".join(f"{phase.freeze_stages} for {phase.epochs}" for phase in plan.phases)
            out.line(f"stages frozen, for so many epochs: {steps}")
        trainable = sum(group.params for group in groups if not group.frozen)
        out.line(f"trainable: {count(trainable)} of {count(sum(group.params for group in groups))} parameters")
        if plan.steps:
            out.line(
                f"{plan.epochs} epochs, {plan.steps} steps of {plan.images_per_step} images, "
                f"augmentation {plan.augment}, "
                f"BatchNorm statistics {'kept' if plan.keep_statistics else 'updated'}"
            )
        else:
            seen = f"{plan.probe_views} views of each image, augmentation {plan.augment}"
            seen = seen if plan.probe_views > 1 else "one pass over the images"
            out.line(f"no training steps: the head is computed from embeddings of {seen}")
        if request.trials is not None:
            out.line(f"so {request.trials} times, each with other settings where these are left open; the best is kept")
        if request.compare_scratch:
            out.line("and once more from random weights, to compare")

    out.result(
        {
            "plan": plan.to_json(),
            "why": found.why,
            "groups": [asdict(group) for group in groups],
            "counts": data.counts(),
        },
        words,
    )
