"""`zoo finetune`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.errors import UsageError
from zoo_cli.command import command
from zoo_cli.commands.finetune_after import finetune_after, refuse
from zoo_cli.commands.finetune_from import MAY_STAND_BESIDE, recommended, request_of
from zoo_cli.commands.finetune_fuse import side_by_side, train_fused
from zoo_cli.commands.finetune_plan import show_plan
from zoo_cli.options import Device, OnBadSample, Strategy, Threads
from zoo_cli.render import Output, percent
from zoo_cli.settings import environment

if TYPE_CHECKING:
    from zoo.finetune.request import FinetuneRequest


def add_to(app: typer.Typer) -> None:
    """Adds the command `finetune`."""
    command(app, "finetune")(_finetune)


def _finetune(
    out: Output,
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A folder, .zip or .csv of labelled images, or builtin:digits."),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="PLUGIN/NAME[@TAG], see `zoo list`; several with --cascade; auto: see `zoo recommend`."),
    ] = None,
    cascade: Annotated[
        Literal["fuse", "chain"] | None,
        typer.Option(
            help="How several backbones become one model: fuse lets one head hear all, chain feeds each one's maps to "
            "the next."
        ),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            metavar="MS", min=0, help="With --cascade fuse or --backbone auto: milliseconds an image may take."
        ),
    ] = None,
    after: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A finished run whose answers the new head hears, too; may be given again."),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="What is trained, and from where; auto: see `zoo recommend`.", show_default="by the size of the data"
        ),
    ] = "auto",
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A tag, a file (.pth, .safetensors), or none; one for each of several backbones, in order."),
    ] = None,
    head: Annotated[str, typer.Option(help="The task head, see `zoo list heads`.")] = "linear",
    hidden: Annotated[str | None, typer.Option(help="Widths of hidden layers, e.g. 512,128 (head mlp).")] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.95, help="Dropout in the head.")] = None,
    freeze_stages: Annotated[int | None, typer.Option(metavar="K", help="With partial: freeze the first K.")] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With lora and dora: rank of the adapters.")
    ] = None,
    drop_stages: Annotated[int, typer.Option(metavar="N", min=0, help="Take the last N stages off the backbone.")] = 0,
    input_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Another square input size.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step, on each device.")] = 32,
    devices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train on N GPUs (on the CPU: in N processes) together.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the last stage (AdamW).")] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Learning rate of a stage beside that of the next (1: the same; 0.8 in lp-ft and gradual)."),
    ] = None,
    l2_sp: Annotated[float, typer.Option("--l2-sp", help="Penalty for leaving the pretrained weights.")] = 0.0,
    co_tuning: Annotated[float, typer.Option(help="Weight of the source task beside the new one.")] = 0.0,
    average: Annotated[bool, typer.Option("--average", help="Keep a moving average of the weights.")] = False,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Look for a better model between the start and the end (WiSE).")
    ] = False,
    lr_race: Annotated[
        bool, typer.Option("--lr-race", help="Try three learning rates first, and average what helps.")
    ] = False,
    balance: Annotated[
        bool, typer.Option("--balance", help="Treat rare classes as if they were as frequent as others.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Search: train N times, keep the best on validation images.")
    ] = None,
    augment: Annotated[
        Literal["auto", "none", "gentle", "crop", "trivial", "affine"],
        typer.Option(help="How training images are varied."),
    ] = "auto",
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Whether mirrored images keep their meaning.")
    ] = None,
    cache: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(help="Run frozen stages once and keep their activations (auto: where it pays)."),
    ] = "auto",
    compile_: Annotated[
        Literal["auto", "always", "never"],
        typer.Option("--compile", help="Train through torch.compile (auto: on a GPU, where it pays)."),
    ] = "auto",
    views: Annotated[int | None, typer.Option(min=1, help="Views of each image that frozen stages see.")] = None,
    taps: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With probe: lower stages the head sees, too.")
    ] = None,
    patience: Annotated[int | None, typer.Option(min=0, help="Evaluations without gain before stopping.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Use only so many training images per class.")] = None,
    val_share: Annotated[float | None, typer.Option(help="Share of the training images held out.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Refuse operations whose results differ from run to run.")
    ] = False,
    on_bad_sample: OnBadSample = "fail",
    track_test: Annotated[
        bool, typer.Option("--track-test", help="Also measure the test split during training (never to choose).")
    ] = False,
    compare_scratch: Annotated[
        bool, typer.Option("--compare-scratch", help="Also train the same architecture from scratch, see zoo report.")
    ] = False,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="Seconds between checkpoints.")] = 30,
    folder: Annotated[Path | None, typer.Option("--out", help="The new run folder (default: runs/<name>).")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Train what this recommendation.json says.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained.")] = False,
) -> None:
    """Fine-tune a pretrained backbone on your images; the result is a run folder."""
    from zoo.catalogue.composites import ARROW, separator
    from zoo.finetune.loop import InterruptedTrainingError
    from zoo.finetune.request import FinetuneRequest
    from zoo.finetune.run import finetune
    from zoo.finetune.run import resume as resume_run

    if resume:
        if folder is None:
            raise UsageError("--resume needs the run to go on with; give --out RUN")
        if given := _given(context, but=("--resume", "--out", "--devices", "--json", "--quiet", "--verbose")):
            raise UsageError(f"--resume goes on with what {folder} began with; leave out {', '.join(given)}")
        target, request = folder, None
    elif from_ is not None:
        request = request_of(from_, _given(context, but=MAY_STAND_BESIDE), device=device, threads=threads)
        target = folder or _fresh_folder(request, request.strategy)
    else:
        if data is None or not backbone:
            raise UsageError(f"{'DATA' if data is None else '--backbone'} is missing; see `zoo finetune --help`")
        if after:
            refuse(backbones=len(backbone), cascade=cascade, dry_run=dry_run, compare_scratch=compare_scratch)
        if len(backbone) > 1 and cascade is None:
            raise UsageError(
                f"--backbone: {len(backbone)} of them; say how they become one model: --cascade fuse or chain"
            )
        if weights and len(weights) != len(backbone):
            raise UsageError(f"--weights: {len(weights)} for {len(backbone)} backbones; give one for each, in order")
        if max_latency is not None and cascade != "fuse" and backbone != ["auto"]:
            raise UsageError(
                f"--max-latency {max_latency:g}: only --backbone auto and --cascade fuse choose by it; leave it out"
            )
        if cascade == "chain":
            if len(backbone) < 2:
                raise UsageError("--cascade chain needs two backbones at least: --backbone A --backbone B")
            backbone, weights = [ARROW.join(backbone)], [ARROW.join(weights)] if weights else None
        options: dict[str, Any] = {}
        if hidden is not None:
            options["hidden"] = _widths(hidden)
        if dropout is not None:
            options["dropout"] = dropout
        request = FinetuneRequest(
            data=data,
            backbone=backbone[0],
            weights=weights[0] if weights else None,
            head="mlp" if hidden is not None and head == "linear" else head,
            head_options=options,
            strategy=strategy,
            freeze_stages=freeze_stages,
            rank=rank,
            drop_stages=drop_stages,
            input_size=input_size,
            epochs=epochs,
            batch_size=batch_size,
            devices=devices or 1,
            lr=lr,
            layer_decay=layer_decay,
            l2_sp=l2_sp,
            co_tuning=co_tuning,
            average=average,
            interpolate=interpolate,
            lr_race=lr_race,
            balance=balance,
            trials=trials,
            augment=augment,
            mirror=mirror,
            cache=cache,
            compile=compile_,
            views=views,
            taps=taps,
            patience=patience,
            shots=shots,
            val_share=val_share,
            seed=seed,
            device=device,
            threads=threads,
            deterministic=deterministic,
            on_bad_sample=on_bad_sample,
            track_test=track_test,
            compare_scratch=compare_scratch,
            checkpoint_seconds=checkpoint_seconds,
        )
        alone = cascade is None and not after and separator(backbone[0]) is None
        if backbone == ["auto"] or (alone and strategy == "auto" and "--strategy" in _given(context, but=())):
            if after or dry_run:
                option, what = ("--after", "backbone") if after else ("--dry-run", "backbone and a strategy")
                raise UsageError(f"{option}: name a {what} for it instead of auto")
            target = folder or _fresh_folder(request, "auto")
            request = recommended(out, request, target.with_name(f"{target.name}-recommendation"), max_latency)
            folder = target
        if after:
            finetune_after(out, request, after, folder or _fresh_folder(request, "after"))
            return
        if cascade == "fuse":
            members = [replace(request, backbone=name) for name in backbone]
            if weights:
                members = [replace(each, weights=own) for each, own in zip(members, weights, strict=True)]
            if strategy in ("auto", "probe"):
                if dry_run or compare_scratch:
                    option = "--dry-run" if dry_run else "--compare-scratch"
                    raise UsageError(f"{option}: a fusion without a --strategy that trains is of probes; leave it out")
                train_fused(out, members, folder or _fresh_folder(request, "fuse"), max_latency)
                return
            if folder is not None:
                from zoo.artifacts.runs import RunFolder

                RunFolder.check_free(folder)  # the probes that choose the backbones take their time
            request = side_by_side(out, members, max_latency)
        target = folder or _fresh_folder(request, request.strategy)
    if dry_run and request is not None:
        show_plan(out, request)
        return
    try:
        if request is None:
            result = resume_run(target, environment(), out.progress, devices=devices)
        else:
            result = finetune(request, target, environment(), out.progress)
    except (InterruptedTrainingError, KeyboardInterrupt):
        begun = (target / "request.json").is_file()
        hint = f"; go on with `zoo finetune --resume --out {shlex.quote(str(target))}`" if begun else ""
        raise KeyboardInterrupt(f"interrupted{hint}") from None

    def words() -> None:
        run = shlex.quote(result["run"])
        out.line(
            f"{result['strategy']} of {result['backbone']} on {result['train_images']} images: "
            f"test accuracy {percent(result['test_accuracy'])}, validation {percent(result['val_accuracy'])}, "
            f"{result['steps']} steps in {result['seconds']:.1f} s"
        )
        if "trials" in result:
            settings = ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in result["best_settings"].items()
            )
            out.line(f"best of {result['trials']} trials: number {result['best_trial']} ({settings})")
        if "scratch" in result:
            out.line(
                f"from scratch: test accuracy {percent(result['scratch']['test_accuracy'])}; see the curves with "
                f"`zoo report {run}`"
            )
        out.line(f"run: {result['run']}   next: zoo export {run}")

    out.result(result, words)


def _given(context: typer.Context, *, but: Sequence[str]) -> list[str]:
    """The options and arguments on the command line, apart from some."""
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name is not None}
    given = [
        option
        for name, option in names.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    ]
    return [option for option in given if option not in but]


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise UsageError(f"--hidden: {text!r}; give widths such as 512,128")
    return widths


def _fresh_folder(request: FinetuneRequest, way: str) -> Path:
    """`runs/<data>-<backbone>-<way>-<time>`."""
    data = re.sub(r"[^A-Za-z0-9_]+", "-", Path(request.data.removeprefix("builtin:")).stem)
    from zoo.catalogue.composites import split

    names = (name.partition("@")[0].partition("[")[0] for name in split(request.backbone))
    backbone = "-".join(name.rpartition("/")[2] for name in names)
    return Path("runs") / f"{data}-{backbone}-{way}-{datetime.now():%Y%m%d-%H%M%S}"
