"""The source task: pictures of letters (never digits) in many hands, made from fonts and bent out of shape."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

CANVAS = 64
"""Side of a clean rendering in pixels."""
SIZE = 32
"""Side of a training image in pixels."""

_LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_GREEK = ("ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ", "αβγδεζηθικλμνξοπρστυφχψω")
_CYRILLIC = ("АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩ", "абвгдежзийклмнопрстуфхцчшщ")
_ARMENIAN = "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ"
_GEORGIAN = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"

# Which character each ASCII letter draws in a stroke font, in the order A-Z, a-z. Kana have no case and no standard
# place in that font, so they are classes by position.
_STROKE_FONTS: dict[str, Iterable[str]] = {
    **dict.fromkeys(("futural", "futuram", "rowmans", "rowmand", "cursive", "scripts", "scriptc"), _LATIN),
    **dict.fromkeys(("timesr", "timesi", "timesib"), _LATIN),
    **dict.fromkeys(("greeks", "greekc"), (*_GREEK[0], "", "", *_GREEK[1], "", "")),
    "cyrilc_1": _CYRILLIC[0] + _CYRILLIC[1],
    "japanese": [f"kana{number}" for number in range(52)],
}
_OUTLINE_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
# Letters drawn alike count as one (the first of each group): the eye cannot tell them apart, nor can a network.
_ALIKE = {
    letter: group[0]
    for group in (
        *("cCсС", "oOоОοΟօ", "sSՏ", "vVν", "wW", "xXхХχΧ", "zZΖ", "kKкКκΚ", "pрρ", "PРΡ", "uUսυ"),
        *("AАΑ", "BВвΒ", "EЕΕ", "HНнΗ", "IlΙ", "MМмΜ", "NΝ", "TТтΤ", "YΥ", "aа", "eе", "yу", "ΓГг", "ΠПпπ"),
        *("ФфΦ", "Лл", "Дд", "Жж", "Зз", "Ии", "Йй", "Цц", "Чч", "Шш", "Щщ", "hհ", "nոռ", "qզ", "gց"),
    )
    for letter in group
}
_STROKE_VARIANTS = 10


@dataclass(frozen=True, slots=True)
class GlyphPool:
    """Clean renderings: `images` uint8 [M, 64, 64], light on dark, and the label of each; `classes[label]` its name."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def render_pool(seed: int) -> GlyphPool:
    """All letters in all fonts, the stroke fonts several times with shaky points and pens of several widths."""
    rng = random.Random(seed)
    images: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for name, image in [*_outlines(), *_strokes(rng)]:
        names.append(name)
        images.append(image)
    classes = tuple(sorted(set(names)))
    number = {name: label for label, name in enumerate(classes)}
    return GlyphPool(torch.from_numpy(np.stack(images)), torch.tensor([number[name] for name in names]), classes)


def _class_of(character: str) -> str:
    return _ALIKE.get(character, character)


def _outlines() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    letters = _LATIN + "".join(_GREEK) + "".join(_CYRILLIC) + _ARMENIAN + _GEORGIAN
    for font_name in _OUTLINE_FONTS:
        path = folder / f"{font_name}.ttf"
        covered = FT2Font(str(path)).get_charmap()
        font = ImageFont.truetype(str(path), 2 * CANVAS)
        for letter in letters:
            assert unicodedata.category(letter).startswith("L"), letter
            # Computer Modern's maps name only Latin letters truthfully.
            if ord(letter) not in covered or (font_name.startswith("cm") and letter not in _LATIN):
                continue
            picture = Image.new("L", (4 * CANVAS, 4 * CANVAS), 0)
            ImageDraw.Draw(picture).text((CANVAS, CANVAS // 2), letter, fill=255, font=font)
            yield _class_of(letter), _fit(picture)


def _strokes(rng: random.Random) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    from HersheyFonts import HersheyFonts

    for font_name, drawn in _STROKE_FONTS.items():
        font = HersheyFonts()
        font.load_default_font(font_name)
        font.normalize_rendering(100)
        for key, letter in zip(_LATIN, drawn, strict=True):
            if not letter:
                continue
            lines = [[(float(x), -float(y)) for x, y in stroke] for stroke in font.strokes_for_text(key)]
            lines = [line for line in lines if len(line) > 1]
            for _ in range(_STROKE_VARIANTS if lines else 0):
                yield _class_of(letter), _fit(_draw(lines, rng))


def _draw(lines: list[list[tuple[float, float]]], rng: random.Random) -> Image.Image:
    """One hand's version of a letter: every point a little off, a pen of some width."""
    shake = rng.uniform(0, 4)
    moved = [[(x + rng.gauss(0, shake), y + rng.gauss(0, shake)) for x, y in line] for line in lines]
    left = min(x for line in moved for x, _ in line)
    top = min(y for line in moved for _, y in line)
    width = max(x for line in moved for x, _ in line) - left
    height = max(y for line in moved for _, y in line) - top
    pen = rng.uniform(0.06, 0.2) * max(width, height)
    scale = 2 * CANVAS / max(width, height)
    margin = CANVAS // 2
    picture = Image.new("L", (3 * CANVAS, 3 * CANVAS), 0)
    draw = ImageDraw.Draw(picture)
    radius = pen * scale / 2
    for line in moved:
        points = [((x - left) * scale + margin, (y - top) * scale + margin) for x, y in line]
        draw.line(points, fill=255, width=max(1, round(2 * radius)), joint="curve")
        for x, y in points:  # round ends
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return picture


def _fit(picture: Image.Image) -> NDArray[np.uint8]:
    """The letter filling the middle three quarters of a 64x64 canvas, its proportions kept."""
    box = picture.getbbox()
    assert box is not None
    letter = picture.crop(box)
    scale = 0.75 * CANVAS / max(letter.size)
    letter = letter.resize(
        (max(1, round(letter.width * scale)), max(1, round(letter.height * scale))), Image.Resampling.BOX
    )
    canvas = Image.new("L", (CANVAS, CANVAS), 0)
    canvas.paste(letter, ((CANVAS - letter.width) // 2, (CANVAS - letter.height) // 2))
    return np.asarray(canvas)


def distort(clean: Tensor, randomness: torch.Generator) -> Tensor:
    """Training images, float [N, 3, 32, 32] in [0, 255], of clean renderings uint8 [N, 64, 64].

    Pen pressure, elastic and affine bending, coarse scanning (down to 7 pixels a side), blur, contrast, polarity,
    tint and noise.
    """
    images = clean[:, None].float() / 255
    images = _bend(_press(images, randomness), randomness)
    images = _scan(images, randomness)
    return _light(images, randomness)


def _uniform(count: int, low: float, high: float, randomness: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=randomness)


def _press(images: Tensor, randomness: torch.Generator) -> Tensor:
    """Thicker or thinner strokes."""
    choice = torch.rand(len(images), generator=randomness)
    thick, thin = choice < 0.25, choice > 0.85
    images[thick] = F.max_pool2d(images[thick], 3, 1, 1)
    images[thin] = -F.max_pool2d(-images[thin], 3, 1, 1)
    return images


def _bend(images: Tensor, randomness: torch.Generator) -> Tensor:
    """Turn, slant, stretch, shift, and a smooth random displacement; output is 32x32."""
    count = len(images)
    turn, slant = _uniform(count, -0.3, 0.3, randomness), _uniform(count, -0.4, 0.4, randomness)
    # The letter fills 0.75 of its canvas: 0.72 makes it fill the frame.
    zoom = _uniform(count, 0.68, 1.0, randomness)
    stretch = torch.exp(_uniform(count, -0.3, 0.3, randomness))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = (turn.cos() * zoom * stretch).flatten()
    theta[:, 0, 1] = ((slant - turn.sin()) * zoom).flatten()
    theta[:, 1, 0] = (turn.sin() * zoom).flatten()
    theta[:, 1, 1] = (turn.cos() * zoom / stretch).flatten()
    theta[:, :, 2] = (torch.rand(count, 2, generator=randomness) - 0.5) * 0.2
    grid = F.affine_grid(theta, [count, 1, SIZE, SIZE], align_corners=False)
    coarse = torch.randn(count, 2, 5, 5, generator=randomness) * _uniform(count, 0, 0.09, randomness)
    waves = F.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False)
    small = F.avg_pool2d(images, 2)  # so that sampling at 32x32 does not alias
    return F.grid_sample(small, grid + waves.permute(0, 2, 3, 1), align_corners=False)


def _scan(images: Tensor, randomness: torch.Generator) -> Tensor:
    """Half of the batch through a coarse scanner: box averages of 7 to 16 pixels a side, few grey levels."""
    side = int(torch.randint(7, 17, (1,), generator=randomness)) if torch.rand(1, generator=randomness) < 0.5 else 8
    coarse = torch.rand(len(images), generator=randomness) < 0.7
    levels = 16
    scanned = (F.adaptive_avg_pool2d(images[coarse], side) * levels).round() / levels
    images[coarse] = F.interpolate(scanned, size=SIZE, mode="bilinear", align_corners=False)
    return images


def _light(images: Tensor, randomness: torch.Generator) -> Tensor:
    """Contrast, brightness, ink tint, polarity, noise."""
    count = len(images)
    gamma = torch.exp(_uniform(count, -0.6, 0.4, randomness))
    images = images.clamp(0, 1) ** gamma
    tinted = torch.rand(count, 1, 1, 1, generator=randomness) < 0.12
    ink = torch.where(tinted, torch.rand(count, 3, 1, 1, generator=randomness), _uniform(count, 0.75, 1, randomness))
    paper = torch.where(tinted, torch.rand(count, 3, 1, 1, generator=randomness), _uniform(count, 0, 0.15, randomness))
    mixed = paper + (ink - paper) * images
    inverted = torch.rand(count, 1, 1, 1, generator=randomness) < 0.1
    mixed = torch.where(inverted, 1 - mixed, mixed)
    noise = torch.randn(mixed.shape, generator=randomness) * _uniform(count, 0, 0.06, randomness)
    return (mixed + noise).clamp(0, 1) * 255
