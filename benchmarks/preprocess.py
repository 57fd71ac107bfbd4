"""What resizing inside the graph costs, beside resizing before it.

    python benchmarks/preprocess.py photos.onnx

One thread, batch 1, decoded pictures of several sizes. Inside: the file gets the picture. Before: Pillow, or
torchvision on tensors, resizes it (bilinear, antialiased) to what the network resizes to, and the same file gets that.
All take turns; the last row is of a picture that already has that size.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from reporting import report
from torchvision.transforms.v2 import functional as F

from zoo.runtime.golden import golden_image
from zoo.runtime.model import OnnxModel
from zoo.runtime.timing import take_turns
from zoo.runtime.trace import trace

_SIZES = ((375, 500), (768, 1024), (1080, 1440), (3024, 4032))


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = OnnxModel(arguments.model, device="cpu", threads=1)
    given = model.require_manifest("bench").input
    side = round(given["height"] / given["crop_fraction"])
    rows = []
    for height, width in (*_SIZES, (side, side)):
        picture = golden_image(height, width, 0)
        scale = side / min(height, width)
        size = (round(height * scale), round(width * scale))
        calls = [
            partial(_run, model, picture),
            lambda picture=picture, size=size: _run(model, _by_pillow(picture, size)),
            lambda picture=picture, size=size: _run(model, _by_torch(picture, size)),
        ]
        inside, pillow, tensors = take_turns(calls, seconds=arguments.seconds)
        seen = trace(arguments.model, [{"image": picture[None]}], device="cpu", settings=model.settings)
        rows.append(
            {
                "picture": f"{height} x {width}",
                "inside_ms": inside.median * 1e3,
                "pillow_ms": pillow.median * 1e3,
                "torch_ms": tensors.median * 1e3,
                "inside_is_faster": min(inside.times_as_fast_as(pillow), inside.times_as_fast_as(tensors)),
                "preprocessing_ms": seen.preprocess_ms,
            }
        )
    report(rows, arguments.out)


def _run(model: OnnxModel, pixels: NDArray[np.uint8]) -> Any:
    return model.run({"image": pixels[None]}, ["probabilities"])


def _by_pillow(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def _by_torch(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    planes = torch.from_numpy(picture).permute(2, 0, 1)
    return F.resize(planes, list(size), antialias=True).permute(1, 2, 0).contiguous().numpy()


if __name__ == "__main__":
    main()
