"""Whatever people call an image comes out as upright RGB pixels, or as an error that names the file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import draw
from PIL import Image

from zoo.data.images import decode_image
from zoo.errors import DataError

RED = (250, 10, 20)


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_exif_orientation_is_undone(tmp_path: Path) -> None:
    upright = np.zeros((10, 30, 3), np.uint8)
    upright[:, :10] = RED
    turned = Image.fromarray(np.rot90(upright).copy())  # a camera held sideways
    path = _saved(turned, tmp_path / "turned.png", exif=_exif(6))
    assert np.array_equal(decode_image(path), upright)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "grey.png"),
        ("1", "bits.png"),
        ("P", "palette.gif"),
        ("CMYK", "press.jpg"),
        ("YCbCr", "video.jpg"),
        ("LA", "grey_alpha.png"),
        ("RGBA", "alpha.png"),
        ("LAB", "lab.tif"),
        ("RGB", "web.jfif"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, name: str, tmp_path: Path) -> None:
    source = Image.fromarray(draw("rings", 3)).convert("RGB")
    if mode == "LAB":
        from PIL import ImageCms

        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(source, transform)
        assert image is not None
    else:
        image = source.convert(mode)
    pixels = decode_image(_saved(image, tmp_path / name))
    assert pixels.shape == (40, 48, 3)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "LAB"):
        assert np.abs(pixels.astype(int) - np.asarray(source)).mean() < 15


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (*RED, 255))
    pixels = decode_image(_saved(image, tmp_path / "a.png"))
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[3, 3]) == (255, 255, 255)


def test_sixteen_bit_depth_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(_saved(Image.fromarray(ramp), tmp_path / "deep.png"))
    assert np.allclose(pixels[..., 0], ramp / 257, atol=1)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 0))]
    path = _saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(path).astype(int) - RED).max() < 6


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw("bars", 0, (200, 200))).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"Dear diary", "not an image: {path}"),
        (lambda: b"", "not an image: {path}"),
        (lambda: _jpeg()[:3000], "cannot read image: {path} (image file is truncated"),
        (lambda: _png_header(20_000, 20_000), "image too large: {path}"),
        (lambda: _png_header(8_000, 8_001), "image too large: {path} is 8000 x 8001, more than 64,000,000 pixels"),
        (lambda: _png_header(6_000, 10), "image too narrow: {path} is 6000 x 10; crop it to at most 50:1"),
        (lambda: _png_header(64, 64), "cannot read image: {path}"),
    ],
    ids=["text", "empty", "truncated", "bomb", "large", "strip", "no-pixels"],
)
def test_bad_files_are_named(content: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content())
    with pytest.raises(DataError) as raised:
        decode_image(path)
    assert message.format(path=path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_decode_like_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg())
    assert np.array_equal(decode_image(path), decode_image(path.read_bytes()))
    with pytest.raises(DataError, match="not an image: image 3;"):
        decode_image(b"?", "image 3")
