"""Images per second of full fine-tuning and of feature extraction, and how long the device waits for images.

    python benchmarks/throughput.py flowers5.zip --device cuda

Weights are random, which changes no time. A GPU computes in bfloat16. Images are decoded before the clock starts, since
a run decodes each of them once.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from reporting import report
from torch import Tensor, nn
from training import train

from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.finetune.cache import FeatureCache
from zoo.finetune.extract import Extractor, Surroundings
from zoo.nn.batches import WHOLE, Batches, Share
from zoo.nn.engine import make_fabric, place
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.threads import available_threads
from zoo.specs import BackboneSpec

_WARM_STEPS = 5


class Watched:
    """Batches of a data set, as often over as it takes for so many; tells when each was asked for and was there."""

    entry = 0

    def __init__(self, batches: Batches, steps: int, now: Callable[[], Any]) -> None:
        self._epochs = math.ceil(steps / len(batches))
        self.samples = [*batches.samples] * self._epochs
        self.asked: list[Any] = []
        self.got: list[Any] = []
        self.images: list[int] = []
        self._batches = batches
        self._now = now

    def __len__(self) -> int:
        return len(self._batches) * self._epochs

    def plain(self, share: Share = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
        """Nothing is evaluated here."""
        raise NotImplementedError

    def augmented(self, policy: Any, *, seed: int, **_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch after the other."""
        self.asked.append(self._now())
        for epoch in range(self._epochs):
            for batch in self._batches.augmented(policy, seed=seed, epoch=epoch):
                self.got.append(self._now())
                self.images.append(len(batch[1]))
                yield batch
                self.asked.append(self._now())


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", action="append", help="may be given several times")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    fabric = make_fabric(arguments.device, arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = open_dataset(arguments.data, cache=Path(folder), progress=Silent())
        store = ImageStore(data)
        check_images(data, store, on_bad="fail", threads=arguments.threads, progress=Silent())
        for name in arguments.backbone or ("torchvision/resnet18", "torchvision/resnet50", "torchvision/vit_b_16"):
            entry, _ = Catalogue.installed().find_backbone(name)
            model = place(_model(entry.spec, len(data.classes)), fabric)
            extraction = _extraction(model, entry.spec, data, store, fabric, Path(folder))
            training, waiting = _training(model, entry.spec, data, store, fabric, arguments)
            rows.append(
                {
                    "backbone": name,
                    "extraction, images/s": round(extraction),
                    "full, images/s": round(training),
                    "waiting for images": waiting,
                }
            )
            report(rows[-1:], None)
    report(rows, arguments.out)


def _model(spec: BackboneSpec, classes: int) -> TransferModel:
    torch.manual_seed(0)
    return TransferModel(
        backbone=spec.split(spec.build()), head=nn.Linear(spec.num_features, classes), input_spec=spec.input
    )


def _extraction(
    model: TransferModel, spec: BackboneSpec, data: DataSet, store: ImageStore, fabric: Fabric, folder: Path
) -> float:
    """Images per second, the preparation of the engine left out."""

    around = Surroundings(
        store=store,
        input_spec=spec.input,
        fabric=fabric,
        cache=FeatureCache(folder / "features", progress=Silent()),
        engines=folder / "engines",
        progress=Silent(),
    )
    extractor = Extractor(model.backbone, name=spec.name, macs=spec.macs, around=around)
    half = len(data.samples) // 2
    extractor.of(data.samples[:half], "")
    began = time.perf_counter()
    extractor.of(data.samples[half:], "")
    return (len(data.samples) - half) / (time.perf_counter() - began)


def _training(
    model: TransferModel,
    spec: BackboneSpec,
    data: DataSet,
    store: ImageStore,
    fabric: Fabric,
    arguments: argparse.Namespace,
) -> tuple[float, float]:
    """Images per second, and the share of the time in which the device has nothing to do but wait for a batch."""
    now, seconds = _clock(fabric)
    readers = 0 if fabric.device.type == "cpu" else arguments.threads
    samples = data.of("train")
    batches = Batches(samples, store=store, input_spec=spec.input, batch_size=arguments.batch, readers=readers)
    source = Watched(batches, _WARM_STEPS + arguments.steps, now)
    train(model, spec, data, source, arguments.batch, fabric, compiles=arguments.compile)
    asked, got = source.asked[_WARM_STEPS:], source.got[_WARM_STEPS:]
    total = seconds(asked[0], asked[-1])
    waiting = sum(map(seconds, asked, got))
    return sum(source.images[_WARM_STEPS:]) / total, waiting / total


def _clock(fabric: Fabric) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """What notes a moment, and the seconds between two of them, for the device that computes.

    A GPU notes it when it has done all that it was given before: between asking for a batch and having it, the time
    that it spends on earlier work does not count.
    """
    if fabric.device.type == "cpu":
        return time.perf_counter, lambda before, after: after - before

    def now() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        after.synchronize()
        return before.elapsed_time(after) / 1000

    return now, seconds


if __name__ == "__main__":
    main()
