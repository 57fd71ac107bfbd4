"""Thumbnails of the most confident mistakes, small enough to live inside a page."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoo.data.dataset import DataSet, Sample
from zoo.data.images import decode_image
from zoo.errors import DataError
from zoo.report.held_out import HeldOut

_COUNT = 12
_SIDE = 160
"""Pixels of a thumbnail's longer side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One image that was labelled wrongly."""

    file: str
    true: str
    called: str
    confidence: float
    thumbnail: str | None
    """A data URI; None where the file is not what it was."""
    missing: str | None
    """Why there is no thumbnail."""


def confident_mistakes(held_out: HeldOut, data: DataSet) -> list[Mistake]:
    """The mistakes the model was surest of, surest first."""
    rows = []
    for number in held_out.confident_mistakes(_COUNT):
        sample = held_out.samples[number]
        thumbnail, missing = _thumbnail(data, sample)
        rows.append(
            Mistake(
                file=sample.file,
                true=held_out.classes[sample.label],
                called=held_out.classes[held_out.predicted[number]],
                confidence=float(held_out.confidence[number]),
                thumbnail=thumbnail,
                missing=missing,
            )
        )
    return rows


def _thumbnail(data: DataSet, sample: Sample) -> tuple[str | None, str | None]:
    """A data URI, or why there is none."""
    try:
        content = data.path(sample).read_bytes()
    except OSError:
        return None, "file is gone"
    if hashlib.sha256(content).hexdigest() != sample.sha256:
        return None, "file has changed since"
    found = thumbnail(content)
    return found, None if found else "file cannot be read"


def thumbnail(source: Path | bytes) -> str | None:
    """A small image file or its bytes as a data URI; None where it cannot be read."""
    try:
        image = Image.fromarray(decode_image(source))
    except DataError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
