"""The source training of `zoo_tiny`: makes the letters, learns them, writes the weights.

    python -m zoo_tiny._train --out glyphs_v1.safetensors

Needs `pip install 'zoo[train]' hershey-fonts`. Everything follows from --seed; the last weights are kept, chosen by
nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.engine import keep_freed_memory
from zoo_tiny._build import GlyphNet
from zoo_tiny._glyphs import GlyphPool, distort, render_pool

MEAN, STD = 0.38, 0.31
"""Of pixels in [0, 1], all channels: a rounded measurement on distorted letters."""

_BATCH = 128
_LR = 4e-3
_WEIGHT_DECAY = 0.05
_SMOOTHING = 0.1
_HELD_OUT = 2_048


def train(pool: GlyphPool, *, steps: int, seed: int) -> tuple[GlyphNet, float]:
    """A network that tells the letters of `pool` apart, and its accuracy on freshly distorted ones."""
    keep_freed_memory()
    torch.manual_seed(seed)
    randomness = torch.Generator().manual_seed(seed)
    network = GlyphNet(len(pool.classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(steps):
        images, labels = _batch(pool, _BATCH, randomness)
        loss = F.cross_entropy(network(images), labels, label_smoothing=_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            sys.stderr.write(
                f"step {step + 1}/{steps} loss {float(loss.detach()):.3f} {time.monotonic() - began:.0f} s\n"
            )
    network.eval()
    held_out = torch.Generator().manual_seed(seed + 1)
    with torch.inference_mode():
        images, labels = _batch(pool, _HELD_OUT, held_out)
        accuracy = float((network(images).argmax(1) == labels).float().mean())
    return network, accuracy


def _batch(pool: GlyphPool, count: int, randomness: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every class equally often, then any of its renderings."""
    weights = (1 / torch.bincount(pool.labels).float())[pool.labels]
    rows = torch.multinomial(weights, count, replacement=True, generator=randomness)
    images = (distort(pool.images[rows], randomness) / 255 - MEAN) / STD
    return images.contiguous(memory_format=torch.channels_last), pool.labels[rows]


def write_images(pool: GlyphPool, folder: Path, *, seed: int) -> None:
    """Writes images as training sees them, a folder per letter: what `zoo registry source` measures."""
    images, labels = _batch(pool, _HELD_OUT, torch.Generator().manual_seed(seed + 2))
    pixels = ((images * STD + MEAN) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, label in enumerate(labels.tolist()):
        path = folder / "train" / f"{label:03d}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)


def main() -> None:
    """Command line of the source training."""
    parser = argparse.ArgumentParser(description="Train the weights of zoo_tiny on rendered letters.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the file of weights")
    what.add_argument("--images", type=Path, help="a folder for some of the images, instead of training")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pool = render_pool(arguments.seed)
    sys.stderr.write(f"{len(pool.labels)} renderings of {len(pool.classes)} letters\n")
    if arguments.images is not None:
        write_images(pool, arguments.images, seed=arguments.seed)
        return
    network, accuracy = train(pool, steps=arguments.steps, seed=arguments.seed)
    facts = {"classes": str(len(pool.classes)), "acc@1": f"{accuracy:.4f}", "steps": str(arguments.steps)}
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, arguments.out, metadata={**facts, "seed": str(arguments.seed)})
    sys.stderr.write(f"accuracy on fresh distortions {accuracy:.4f}; wrote {arguments.out}\n")


if __name__ == "__main__":
    main()
