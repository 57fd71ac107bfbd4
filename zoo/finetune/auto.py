"""Which strategy suits the data, where the user leaves that open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from zoo.data.dataset import DataSet
from zoo.finetune.plan import SMALL_DATA
from zoo.finetune.request import FinetuneRequest

_FEW_PER_CLASS = 10
_GENERIC_SHARE = 0.05


def settle(
    request: FinetuneRequest, data: DataSet, stage_params: Callable[[], Sequence[int]], *, upstream_stages: int = 0
) -> tuple[FinetuneRequest, str]:
    """The request with `auto` replaced by a strategy, and why; a request that names one comes back as it is.

    Few images per class cannot teach a backbone anything: a probe. Otherwise everything is trained from the head of a
    probe, except that of small data the lower stages, which hold few parameters and the most general features (Yosinski
    et al. 2014), stay as they are: they take most of the time, and what is frozen is computed once. `stage_params`
    gives the parameters of each stage. Of a chain whatever comes before its last backbone, in `upstream_stages`, stays:
    it is the adapter and what reads its maps that have to find to each other.
    """
    if request.strategy != "auto":
        return request, "asked for"
    train = data.of("train")
    per_class = len(train) / len(data.classes)
    enough = f"{per_class:.0f} images per class are enough to train a backbone"
    if per_class < _FEW_PER_CLASS:
        asking = request.training_options()
        if not asking:
            few = f"{per_class:.0f} images per class are too few to train a backbone"
            return replace(request, strategy="probe"), few
        enough = f"{asking[0]} asks for training, for which {per_class:.0f} images per class are few"
    if len(train) >= SMALL_DATA:
        return replace(request, strategy="lp-ft"), f"{len(train)} images are enough to train the whole backbone"
    if upstream_stages:
        why = f"{enough}; the stages before the last backbone of the chain stay as they are"
        return replace(request, strategy="partial", freeze_stages=upstream_stages), why
    params = stage_params()
    frozen = sum(total <= _GENERIC_SHARE * sum(params) for total in accumulate(params))
    if frozen == 0:
        return replace(request, strategy="lp-ft"), enough
    why = (
        f"{enough}; the first {frozen} stages hold {sum(params[:frozen]) / sum(params):.1%} of its parameters and stay "
        "as they are"
    )
    return replace(request, strategy="partial", freeze_stages=frozen), why
