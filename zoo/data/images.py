"""Image bytes to RGB pixels: the one decoder that training, prediction and serving share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm"}
)

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a few kilobytes can unfold into gigabytes."""
MAX_ASPECT = 50
"""Longer strips are refused: resizing their short side up would unfold them in memory."""


def decode_image(source: Path | bytes, name: str | None = None) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of an image file or its bytes, turned upright by its EXIF orientation.

    Greyscale is repeated, palettes are looked up, CMYK is converted, transparency is laid on white, 16-bit depth is
    scaled down; of an animation, the first frame. Raises DataError naming `name` (by default the path) where the
    image is unreadable, truncated or too large.
    """
    shown = name or (str(source) if isinstance(source, Path) else f"{len(source)} bytes")
    try:
        with Image.open(_file(source)) as image:
            check_size(image.width, image.height, shown)
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"not an image: {shown}; remove it or give another file") from None
    # The warning where the caller has made errors of warnings; otherwise the check above speaks.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"image too large: {shown} ({error}); scale it down") from None
    # Pillow's decoders raise many kinds (OSError, SyntaxError, struct.error, ...) for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read image: {shown} ({reason}); repair or remove it") from None


def _file(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def check_size(width: int, height: int, shown: str) -> None:
    """Raises DataError where an image of this size in pixels is refused."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"image too large: {shown} is {width} x {height}, more than {MAX_PIXELS:,} pixels; scale it down"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(f"image too narrow: {shown} is {width} x {height}; crop it to at most {MAX_ASPECT}:1")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        # Pillow clips these to 255 instead of scaling them.
        pixels = np.asarray(image, np.float64)
        top = 65535.0 if image.mode != "F" or pixels.max(initial=0) > 1 else 1.0
        return Image.fromarray((pixels / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")
