"""A training step of Zoo beside that of a bare hand-written loop, on the same batches.

    python benchmarks/loop.py --backbone torchvision/mobilenet_v2

Two copies of a network with random weights, whose time is that of any others, train on the same batches in turn: one
step of the bare loop, one step of Zoo. What is compared is all that lies between two batches. The bare loop is laid out
channels-last in memory and clips gradients as Zoo does; without clipping it is timed, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from reporting import report
from torch import Tensor, nn
from training import train

from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet, Sample
from zoo.nn.batches import WHOLE, Share
from zoo.nn.engine import make_fabric, place
from zoo.nn.model import TransferModel
from zoo.runtime.threads import available_threads
from zoo.specs import BackboneSpec

_CLASSES = 5
_WARM_STEPS = 3


class Interleaved:
    """Batches for Zoo's loop; before each of them, the other loops take their step on it."""

    entry = 0

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]], others: dict[str, Callable[[Tensor, Tensor], None]]):
        self.samples = [_sample(number) for batch in batches for number in range(len(batch[1]))]
        self.seconds: dict[str, list[float]] = {name: [] for name in (*others, "zoo")}
        self._batches = batches
        self._others = others

    def __len__(self) -> int:
        return len(self._batches)

    def plain(self, share: Share = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
        """Nothing is evaluated here."""
        raise NotImplementedError

    def augmented(self, *_: Any, **__: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches, in order."""
        for images, labels in self._batches:
            for name, step in self._others.items():
                began = _now()
                step(images, labels)
                self.seconds[name].append(_now() - began)
            began = _now()
            yield images, labels
            self.seconds["zoo"].append(_now() - began)


def _now() -> float:
    """The time, once all that a GPU was given is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="torchvision/mobilenet_v2")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="Zoo trains through torch.compile")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    fabric = make_fabric(arguments.device, arguments.threads)
    entry, _ = Catalogue.installed().find_backbone(arguments.backbone)
    spec = entry.spec
    size = (arguments.batch, spec.input.channels, spec.input.height, spec.input.width)
    batches = [
        (torch.randn(size), torch.randint(_CLASSES, (arguments.batch,))) for _ in range(_WARM_STEPS + arguments.steps)
    ]
    source = Interleaved(
        batches,
        {
            "bare loop, no clipping": _bare_step(place(_model(spec), fabric), fabric.device, clip=False),
            "bare loop": _bare_step(place(_model(spec), fabric), fabric.device, clip=True),
        },
    )
    data = DataSet(source="", root=Path(), classes=tuple(map(str, range(_CLASSES))), samples=tuple(source.samples))
    train(place(_model(spec), fabric), spec, data, source, arguments.batch, fabric, compiles=arguments.compile)
    medians = {name: statistics.median(seconds[_WARM_STEPS:]) for name, seconds in source.seconds.items()}
    rows = [
        {"loop": name, "ms per step": round(1e3 * seconds, 1), "of the bare loop": seconds / medians["bare loop"]}
        for name, seconds in medians.items()
    ]
    report(rows, arguments.out)


def _model(spec: BackboneSpec) -> TransferModel:
    torch.manual_seed(0)
    model = TransferModel(
        backbone=spec.split(spec.build()), head=nn.Linear(spec.num_features, _CLASSES), input_spec=spec.input
    )
    # As on small data: the statistics of BatchNorm stay those of the pretrained weights.
    model.keep_statistics = True
    return model


def _bare_step(model: TransferModel, device: torch.device, *, clip: bool) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def step(images: Tensor, labels: Tensor) -> None:
        inputs = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = nn.functional.cross_entropy(model(inputs), labels.to(device))
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _sample(number: int) -> Sample:
    return Sample(file=str(number), label=number % _CLASSES, split="train", sha256=str(number))


if __name__ == "__main__":
    main()
