"""Findings about how many images there are and what they are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.audit.finding import Finding
from zoo.audit.images import Look
from zoo.data.dataset import DataSet, Split

FEWEST = 2
_FEW = 10
_UNEVEN = 10
_CONSTANT = 1.0
"""Standard deviation of brightness, of 255 levels: less is a black, white or covered frame."""
_LONG = 4
_TINY = 32
"""Pixels of the short side."""
_ODD_SHARE = 0.05


def find_classes(data: DataSet) -> list[Finding]:
    """Classes that are too small, missing from a split, or rare beside others."""
    found = []
    counts = {split: Counter(sample.label for sample in data.of(split)) for split in ("train", "val", "test")}
    learnt = {label: counts["train"][label] + counts["val"][label] for label in range(len(data.classes))}
    for label, name in enumerate(data.classes):
        files = [sample.file for sample in data.samples if sample.label == label]
        if learnt[label] < FEWEST:
            message = f"class {name!r} has {learnt[label]} training images; {FEWEST} are the fewest, add some"
            found.append(Finding(kind="class too small", severity="error", files=files, message=message))
        elif learnt[label] < _FEW:
            message = f"class {name!r} has {learnt[label]} training images; expect little of it"
            found.append(Finding(kind="small class", severity="remark", files=[], message=message))
        if data.of("test") and not counts["test"][label]:
            message = f"class {name!r} has no test images; how good it is will not be known"
            found.append(Finding(kind="class not tested", severity="warning", files=[], message=message))
    fewest, most = min(learnt.values()), max(learnt.values())
    if fewest and most >= _UNEVEN * fewest:
        message = f"classes have {fewest} to {most} training images; --balance makes rare ones count as much"
        found.append(Finding(kind="imbalance", severity="remark", files=[], message=message))
    return found


def find_looks(looks: Sequence[Look]) -> list[Finding]:
    """Images with nothing on them, and those that are unlike the others in size, shape or colour."""
    constant = [look.sample.file for look in looks if look.spread < _CONSTANT]
    found = [
        Finding(kind="constant", severity="warning", files=[file], message="one colour from edge to edge; remove it")
        for file in constant
    ]
    long = [look for look in looks if max(look.height, look.width) > _LONG * min(look.height, look.width)]
    tiny = [look for look in looks if min(look.height, look.width) < _TINY]
    grey = [look for look in looks if look.grey]
    coloured = [look for look in looks if not look.grey]
    for kind, some, message in (
        ("long", long, f"more than {_LONG} times as long as wide: a square crop shows little of it"),
        ("tiny", tiny, f"fewer than {_TINY} pixels a side"),
        ("grey", grey, "grey among coloured images"),
        ("coloured", coloured, "coloured among grey images"),
    ):
        # All of a data set may be tiny, or grey: that is no finding but what it is like.
        if some and len(some) <= _ODD_SHARE * len(looks):
            files = [look.sample.file for look in some]
            found.append(Finding(kind=kind, severity="remark", files=files, message=f"{len(some)} images: {message}"))
    return found


def statistics(data: DataSet, looks: Sequence[Look]) -> Mapping[str, Any]:
    """Sizes in pixels, colours of 255 levels, and images per class and split."""
    shorter = np.array([min(look.height, look.width) for look in looks] or [0])
    longer = np.array([max(look.height, look.width) for look in looks] or [0])
    means = np.array([look.mean for look in looks] or [(0.0, 0.0, 0.0)])
    splits: tuple[Split, ...] = ("train", "val", "test")
    counts = {split: Counter(data.classes[sample.label] for sample in data.of(split)) for split in splits}
    return {
        "images": len(data.samples),
        "short_side": [int(value) for value in np.percentile(shorter, (0, 50, 100))],
        "long_side": [int(value) for value in np.percentile(longer, (0, 50, 100))],
        "mean_colour": [round(float(value), 1) for value in means.mean(0)],
        "colour_spread": [round(float(value), 1) for value in means.std(0)],
        "grey": sum(look.grey for look in looks),
        "classes": {name: {split: counts[split][name] for split in splits} for name in data.classes},
    }
