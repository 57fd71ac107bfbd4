"""Plots as inline SVG: axes, lines, bars and text in the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

_WIDTH = 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 30, 42
_LETTER = 6.3
"""Width of an average letter of a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What one direction of a plot means."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    text: Callable[[float], str] = "{:g}".format

    @classmethod
    def up_to(cls, label: str, high: float) -> Axis:
        """From 0 to `high`, with about five round ticks."""
        step = 10 ** math.floor(math.log10(high / 5))
        step *= next(factor for factor in (1, 2, 5, 10) if high / (factor * step) <= 6)
        count = math.floor(high / step + 1e-9)
        return cls(label=label, low=0, high=high, ticks=tuple(number * step for number in range(count + 1)))

    @classmethod
    def share(cls, label: str, low: float = 0.0) -> Axis:
        """From 0, or another low end, to 100 %."""
        ticks = tuple(low + (1 - low) * number / 5 for number in range(6))
        return cls(label=label, low=low, high=1, ticks=ticks, text=lambda share: f"{100 * share:.0f} %")


def drawing(title: str, description: str, width: float, height: float) -> ElementTree.Element:
    """An empty picture with its words for those who cannot see it."""
    svg = ElementTree.Element("svg", viewBox=f"0 0 {width:g} {height:g}", role="img")
    ElementTree.SubElement(svg, "title").text = title
    ElementTree.SubElement(svg, "desc").text = description
    return svg


def add(
    parent: ElementTree.Element, tag: str, text: str | None = None, hint: str | None = None, **attributes: str | float
) -> ElementTree.Element:
    """A new element in `parent`: `class_` is its class, `_` in names is `-`; `hint` is what a mouse over it shows."""
    words = {
        name.rstrip("_").replace("_", "-"): f"{value:.6g}" if isinstance(value, int | float) else value
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, words)
    element.text = text
    if hint is not None:
        ElementTree.SubElement(element, "title").text = hint
    return element


def markup(svg: ElementTree.Element) -> Markup:
    """The picture as it stands in a page; every text in it is escaped."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


class Plot:
    """Two axes and what is drawn between them, in units of the axes."""

    def __init__(self, title: str, description: str, *, x: Axis, y: Axis, height: float = 270) -> None:
        self._x, self._y, self._height = x, y, height
        self._svg = drawing(title, description, _WIDTH, height)
        self._legend = float(_LEFT)
        self._draw_axes()

    def line(self, points: Sequence[tuple[float, float]], style: str, *, marks: bool = False) -> None:
        """A line through `points`; with `marks`, a dot on each."""
        places = [(self._left(x), self._top(y)) for x, y in points]
        add(self._svg, "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=f"line {style}")
        for (x, y), (left, top) in zip(points, places, strict=True):
            if marks:
                add(self._svg, "circle", hint=f"{x:g}: {y:.3g}", cx=left, cy=top, r=2.6, class_=f"mark {style}")

    def point(self, x: float, y: float, style: str, *, label: str, hint: str) -> None:
        """A dot with a short word above it."""
        add(self._svg, "circle", hint=hint, cx=self._left(x), cy=self._top(y), r=4, class_=f"mark {style}")
        add(self._svg, "text", label, x=self._left(x), y=self._top(y) - 7, class_="label", text_anchor="middle")

    def bar(self, low: float, high: float, value: float, style: str, hint: str) -> None:
        """A bar from `low` to `high` along x, as high as `value`."""
        left, top = self._left(low) + 0.75, self._top(value)
        width, height = self._left(high) - left - 0.75, self._top(self._y.low) - top
        add(self._svg, "rect", hint=hint, x=left, y=top, width=width, height=height, class_=style)

    def text(self, x: float, y: float, text: str) -> None:
        """A small centred word just above a point."""
        add(self._svg, "text", text, x=self._left(x), y=self._top(y) - 4, class_="small", text_anchor="middle")

    def legend(self, label: str, style: str) -> None:
        """One more entry above the plot."""
        add(self._svg, "line", x1=self._legend, x2=self._legend + 24, y1=12, y2=12, class_=f"line {style}")
        add(self._svg, "text", label, x=self._legend + 29, y=16)
        self._legend += 29 + _LETTER * len(label) + 16

    def markup(self) -> Markup:
        """The plot as it stands in a page."""
        return markup(self._svg)

    def _draw_axes(self) -> None:
        bottom, right = self._height - _BOTTOM, _WIDTH - _RIGHT
        for tick in self._y.ticks:
            top = self._top(tick)
            add(self._svg, "line", x1=_LEFT, x2=right, y1=top, y2=top, class_="grid")
            add(self._svg, "text", self._y.text(tick), x=_LEFT - 6, y=top + 4, text_anchor="end")
        for tick in self._x.ticks:
            left = self._left(tick)
            add(self._svg, "line", x1=left, x2=left, y1=bottom, y2=bottom + 4, class_="axis")
            add(self._svg, "text", self._x.text(tick), x=left, y=bottom + 17, text_anchor="middle")
        add(self._svg, "line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis")
        middle, centre = (_LEFT + right) / 2, (_TOP + bottom) / 2
        add(self._svg, "text", self._x.label, x=middle, y=self._height - 6, text_anchor="middle", class_="label")
        turned = f"translate(12 {centre:g}) rotate(-90)"
        add(self._svg, "text", self._y.label, transform=turned, text_anchor="middle", class_="label")

    def _left(self, x: float) -> float:
        return _LEFT + (x - self._x.low) / (self._x.high - self._x.low) * (_WIDTH - _RIGHT - _LEFT)

    def _top(self, y: float) -> float:
        span = self._height - _BOTTOM - _TOP
        return self._height - _BOTTOM - (y - self._y.low) / (self._y.high - self._y.low) * span
