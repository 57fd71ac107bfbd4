"""The verb `data check`: all that can be told of a data set before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.artifacts.runs import RunFolder
from zoo.audit.counts import FEWEST, find_classes, find_looks, statistics
from zoo.audit.duplicates import find_duplicates
from zoo.audit.finding import Finding
from zoo.audit.images import look_at
from zoo.audit.suspects import find_suspects
from zoo.catalogue.weights import weights_at_hand
from zoo.data.dataset import DataSet
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, open_data
from zoo.finetune.run import probe_sources
from zoo.progress import Named, Progress
from zoo.runtime.threads import available_threads

_SEVERITIES = ("error", "warning", "remark")


def check_data(asked: FinetuneRequest, environment: Environment, progress: Progress) -> dict[str, Any]:
    """What is wrong with the data of a training, `ok` where it may begin; the most serious findings first.

    Labels are judged by the features of its backbone, of the best one at hand where it says `auto`. Raises DataError
    where there is no data set at all.
    """
    data = open_data(asked, environment, progress, for_training=False)
    looks, bad = look_at(data, threads=asked.threads or available_threads(), progress=progress)
    findings = [
        Finding(kind="unreadable", severity="error", files=[file], message=message) for file, message in bad.items()
    ]
    good = data.without(set(bad))
    findings += [*find_duplicates(good, looks), *find_classes(good), *find_looks(looks)]
    backbone = _backbone(asked, environment)
    why_not = _why_not(good, backbone)
    if backbone is not None and why_not is None:
        request = replace(asked, backbone=backbone, strategy="probe")
        with TemporaryDirectory() as folder:
            run = RunFolder(Path(folder))
            findings += find_suspects(probe_sources(request, good, run, environment, Named(progress, backbone)))
    findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return {
        "data": asked.data,
        "root": str(data.root),
        "ok": not any(finding.severity == "error" for finding in findings),
        "findings": [finding.to_json() for finding in findings],
        "labels_judged_by": backbone if why_not is None else None,
        "labels_not_judged": why_not,
        "statistics": statistics(data, looks),
    }


def _backbone(asked: FinetuneRequest, environment: Environment) -> str | None:
    """The backbone to judge labels by: of those at hand the one that knows the most classes best."""
    if asked.backbone != "auto":
        return asked.backbone
    known = [(entry, weights) for entry, weights in weights_at_hand(environment.catalogue.backbones, environment.cache)]
    if not known:
        return None
    entry, weights = max(known, key=lambda each: (each[1].num_classes, each[1].metrics.get("acc@1", 0.0)))
    return f"{entry.id}@{weights.tag}"


def _why_not(data: DataSet, backbone: str | None) -> str | None:
    """Why labels cannot be judged; None where they can."""
    if backbone is None:
        return "no pretrained weights are at hand; get some with `zoo weights fetch NAME`"
    train = data.of("train")
    if len({sample.label for sample in train}) < FEWEST or len(train) <= len(data.classes):
        return "there are too few images"
    return None
