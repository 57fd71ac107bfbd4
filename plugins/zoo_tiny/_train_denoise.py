"""The training of `denoise`: draws dead leaves, learns to take noise off them, writes the weights.

    python -m zoo_tiny._train_denoise --out leaves_v1.safetensors

Needs `pip install 'zoo[train]'`. Everything follows from --seed; the last weights are kept, chosen by nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.engine import keep_freed_memory
from zoo_tiny._denoiser import Denoiser
from zoo_tiny._leaves import draw_leaves

MEAN, STD = 0.5, 0.25
"""Of pixels in [0, 1], all channels."""
STRONGEST = 55 / 255
"""Standard deviation of the strongest noise in training."""
MEASURED = (0, 15, 25, 50)
"""Strengths of noise, of 255, that are measured on pictures held out."""

_PATCH = 56
_BATCH = 16
_LR = 2e-3
_PICTURES = 300
_HELD_OUT = 24


def train(pictures: Tensor, *, steps: int, seed: int) -> Denoiser:
    """A network that takes noise off pictures uint8 [M, 3, H, W]."""
    keep_freed_memory()
    torch.manual_seed(seed)
    randomness = torch.Generator().manual_seed(seed)
    network = Denoiser().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.monotonic()
    for step in range(steps):
        clean = _patches(pictures, randomness)
        noisy = add_noise(clean, STRONGEST * torch.rand(_BATCH, 1, 1, 1, generator=randomness), randomness)
        # The mean absolute error: squares would be about strong noise alone.
        loss = F.l1_loss(network((noisy - MEAN) / STD), (clean - MEAN) / STD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            sys.stderr.write(
                f"step {step + 1}/{steps} loss {float(loss.detach()):.4f} {time.monotonic() - began:.0f} s\n"
            )
    return network.eval()


def add_noise(pixels: Tensor, strength: Tensor | float, randomness: torch.Generator) -> Tensor:
    """Pixels in [0, 1] with Gaussian noise, cut off as files cut it off."""
    return (pixels + strength * torch.randn(pixels.shape, generator=randomness)).clamp(0, 1)


def denoised(network: Denoiser, pixels: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] in [0, 1] without their noise."""
    with torch.inference_mode():
        found: Tensor = network((pixels - MEAN) / STD) * STD + MEAN
    return found.clamp(0, 1)


def psnr(pixels: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over images, 120 where they are equal; pixels in [0, 1]."""
    return float(-10 * (pixels - truth).square().mean((1, 2, 3)).clamp_min(1e-12).log10().mean())


def measure(network: Denoiser, pictures: Tensor, strengths: Sequence[int], seed: int) -> dict[int, tuple[float, float]]:
    """PSNR before and after, by the standard deviation of the noise (of 255), of pictures uint8 [M, 3, H, W]."""
    clean, found = pictures.float() / 255, {}
    for strength in strengths:
        noisy = add_noise(clean, strength / 255, torch.Generator().manual_seed(seed))
        found[strength] = psnr(noisy, clean), psnr(denoised(network, noisy), clean)
    return found


def _patches(pictures: Tensor, randomness: torch.Generator) -> Tensor:
    """Float [16, 3, 56, 56] in [0, 1], of any place in any picture, some turned over."""
    count, _, height, width = pictures.shape
    rows = torch.randint(count, (_BATCH,), generator=randomness).tolist()
    tops = torch.randint(height - _PATCH + 1, (_BATCH,), generator=randomness).tolist()
    lefts = torch.randint(width - _PATCH + 1, (_BATCH,), generator=randomness).tolist()
    patches = torch.stack(
        [
            pictures[row, :, top : top + _PATCH, left : left + _PATCH]
            for row, top, left in zip(rows, tops, lefts, strict=True)
        ]
    )
    flips = torch.rand(3, generator=randomness) < 0.5
    for flip, axes in zip(flips.tolist(), ((2,), (3,)), strict=False):
        patches = patches.flip(axes) if flip else patches
    patches = patches.transpose(2, 3) if flips[2] else patches
    return (patches.float() / 255).contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description="Train the denoiser of zoo_tiny on pictures of dead leaves.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    pictures = draw_leaves(_PICTURES, arguments.seed)
    sys.stderr.write(f"{len(pictures)} pictures {time.monotonic() - began:.0f} s\n")
    network = train(pictures, steps=arguments.steps, seed=arguments.seed)
    found = measure(network, draw_leaves(_HELD_OUT, arguments.seed + 1), MEASURED, arguments.seed + 2)
    facts = {f"psnr at {strength}": f"{before:.2f} -> {after:.2f}" for strength, (before, after) in found.items()}
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, arguments.out, metadata={**facts, "steps": str(arguments.steps), "seed": str(arguments.seed)})
    sys.stderr.write(f"{facts}; wrote {arguments.out} {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
