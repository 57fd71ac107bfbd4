"""What `zoo finetune` trains where a recommendation says so: `--from FILE`, `--backbone auto`, `--strategy auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo.errors import UsageError
from zoo_cli.render import Output
from zoo_cli.settings import environment

if TYPE_CHECKING:
    from zoo.finetune.request import FinetuneRequest

MAY_STAND_BESIDE = ("--from", "--out", "--device", "--threads", "--dry-run", "--json", "--quiet", "--verbose")
"""Options that say nothing of what is trained."""


def request_of(
    path: Path, given: Sequence[str], *, device: Literal["auto", "cpu", "cuda"], threads: int | None
) -> FinetuneRequest:
    """The training that the recommendation in a file asks for, on another device and other threads where given.

    Raises UsageError where `given`, the options beside it, ask for something else, or the file is no recommendation.
    """
    from zoo.artifacts.files import read_json
    from zoo.finetune.request import FinetuneRequest

    if given:
        raise UsageError(f"--from {path} says what is trained; leave out {', '.join(given)}")
    try:
        request = FinetuneRequest(**read_json(path)["request"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"not a recommendation: {path} ({error}); give the file that `zoo recommend` wrote") from None
    return replace(request, device=device if device != "auto" else request.device, threads=threads or request.threads)


def recommended(out: Output, asked: FinetuneRequest, folder: Path, max_latency: float | None) -> FinetuneRequest:
    """The training that suits the data best, `asked` leaving the backbone, the strategy or both open; why is said and
    kept in `folder`."""
    from zoo.finetune.request import FinetuneRequest
    from zoo.recommend.candidates import Limits
    from zoo.recommend.run import recommend

    names = () if asked.backbone == "auto" else (asked.backbone,)
    if asked.weights is not None:
        what = f"say {asked.backbone}@TAG instead" if names else "leave it out"
        raise UsageError(f"--weights {asked.weights}: auto compares pretrained sets that have a tag; {what}")
    around, limits = environment(), Limits(backbones=names, latency_ms=max_latency)
    found = recommend(asked, folder, around, out.progress, limits=limits, results=around.catalogue.results)
    for sentence in found["why"]:
        out.remark(sentence)
    request = FinetuneRequest(**found["request"])
    if request.strategy == "probe" and (given := asked.training_options()):
        out.remark(f"a probe takes no steps: {', '.join(given)} meant nothing to it")
    return request
