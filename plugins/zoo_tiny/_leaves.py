"""Pictures of dead leaves: random shapes that hide each other, with edges and sizes as photographs have them.

Lee, Mumford and Huang 2001: sizes by a power law make the picture look alike at every scale, as natural images do. A
network trained on nothing else takes noise out of photographs (Achddou, Gousseau and Ladjal 2021).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

SIZE = 192
"""Side of a picture in pixels."""
_FINE = 2
"""Pictures are drawn so many times as large: edges come out soft."""
_TEXTURES = 6
"""Different textures in one picture."""


def draw_leaves(count: int, seed: int) -> Tensor:
    """Pictures uint8 [count, 3, 192, 192]."""
    randomness = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([_picture(randomness) for _ in range(count)]))


def _picture(randomness: np.random.Generator) -> NDArray[np.uint8]:
    side = _FINE * SIZE
    radii = _radii(randomness, side)
    # Which leaf is on top at each pixel; the background is leaf 0.
    drawing = Image.new("I", (side, side), 0)
    pen = ImageDraw.Draw(drawing)
    for number, radius in enumerate(radii, 1):
        _leaf(pen, randomness, number, radius, side)
    top = np.asarray(drawing)
    leaves = len(radii) + 1
    textures = np.stack([_texture(randomness, side) for _ in range(_TEXTURES)])
    strength = randomness.uniform(0, 0.15) * randomness.random(leaves) ** 2
    kind = randomness.integers(_TEXTURES, size=leaves)
    rows, columns = np.indices((side, side), sparse=True)
    light = (strength[top] * textures[kind[top], rows, columns])[..., None]
    pixels = _colours(randomness, leaves)[top] + light
    pixels = pixels.reshape(SIZE, _FINE, SIZE, _FINE, 3).mean((1, 3))
    return np.asarray((255 * pixels.clip(0, 1)).round().astype(np.uint8).transpose(2, 0, 1))


def _radii(randomness: np.random.Generator, side: int) -> NDArray[np.float64]:
    """In the order in which they fall, as many as cover the picture a few times; the density falls with the cube."""
    smallest, largest = math.exp(randomness.uniform(math.log(2), math.log(24))), side / 2
    low, high = smallest**-2, largest**-2
    mean_area = math.pi * 2 * math.log(largest / smallest) / (low - high)
    count = math.ceil(3 * side**2 / mean_area)
    return np.asarray((low - randomness.random(count) * (low - high)) ** -0.5)


def _leaf(pen: ImageDraw.ImageDraw, randomness: np.random.Generator, number: int, radius: float, side: int) -> None:
    """A disc, a bar or a polygon."""
    x, y = randomness.uniform(-radius / 2, side + radius / 2, 2)
    shape, turn = randomness.random(), randomness.uniform(0, 2 * math.pi)
    if shape < 0.4:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=number)
        return
    if shape < 0.7:
        half = math.atan(randomness.uniform(0.1, 1))
        angles = turn + np.array([-half, half, math.pi - half, math.pi + half])
    else:
        angles = turn + np.sort(randomness.uniform(0, 2 * math.pi, int(randomness.integers(3, 8))))
    corners = zip((x + radius * np.cos(angles)).tolist(), (y + radius * np.sin(angles)).tolist(), strict=True)
    pen.polygon(list(corners), fill=number)


def _colours(randomness: np.random.Generator, count: int) -> NDArray[np.float64]:
    """[count, 3] in [0, 1]: light and dark by far more than in hue, which the leaves of a picture have in common."""
    light = randomness.uniform(0, 1, (count, 1)) ** math.exp(randomness.uniform(-0.5, 0.7))
    hue = randomness.normal(0, 0.08, 3) + randomness.normal(0, randomness.uniform(0.02, 0.15), (count, 3))
    low, high = sorted(randomness.uniform(0, 1, 2))
    spread = max(high - low, 0.4)
    colours: NDArray[np.float64] = min(low, 1 - spread) + spread * light + hue - hue.mean(1, keepdims=True)
    return colours.clip(0, 1)


def _texture(randomness: np.random.Generator, side: int) -> NDArray[np.float64]:
    """[side, side] of variance 1: clouds, or grain in one direction."""
    spectrum = np.fft.rfft2(randomness.normal(size=(side, side)))
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    turn, stretch = randomness.uniform(0, math.pi), math.exp(randomness.uniform(0, 1.5))
    along = (across * math.cos(turn) + down * math.sin(turn)) * stretch
    beside = -across * math.sin(turn) + down * math.cos(turn)
    frequency = np.sqrt(along**2 + beside**2)
    frequency[0, 0] = 1
    clouds = np.fft.irfft2(spectrum * frequency ** -randomness.uniform(0.8, 2), (side, side))
    return np.asarray((clouds - clouds.mean()) / clouds.std())
