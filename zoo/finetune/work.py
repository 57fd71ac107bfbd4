"""Everything one fine-tuning works on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from lightning_fabric import Fabric

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.data.store import ImageStore
from zoo.finetune.plan import Plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, Resolved
from zoo.nn.model import TransferModel
from zoo.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was asked for and what that has been resolved to; the parts of a run see it in their own ways."""

    request: FinetuneRequest
    resolved: Resolved
    data: DataSet
    plan: Plan
    store: ImageStore
    model: TransferModel
    """With its pretrained weights until it is trained."""
    fabric: Fabric
    environment: Environment
    progress: Progress
    run: RunFolder

    @classmethod
    def of(cls, work: Work) -> Self:
        """The same work seen as this class does."""
        same: dict[str, Any] = {field.name: getattr(work, field.name) for field in fields(Work)}
        return cls(**same)
