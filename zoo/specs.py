"""What plugins declare: plain, torch-free facts about backbones, weights and heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.nn.backbone import Backbone

Interpolation = Literal["bilinear", "bicubic"]
Layout = Literal["NCHW", "NHWC", "NTC"]
Needs = Literal["embedding", "stages", "tokens"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_BACKBONE = re.compile(r"[a-z0-9][A-Za-z0-9_.:/-]*\Z")
"""Names of hubs have more in them: `hf-hub:OWNER/Name`."""
_SHA256 = re.compile(r"[0-9a-f]{8}([0-9a-f]{56})?\Z")


def check_name(name: object, what: str) -> None:
    """Raises ValueError unless `name` is lower case letters, digits, `_`, `.` and `-`."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"{what} name: {name!r}; use lower case letters, digits, '_', '.' and '-'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """How an image becomes the tensor a backbone was trained on.

    The short side is resized (antialiased) to `height / crop_fraction`, the centre `height x width` is cut out,
    pixels are scaled to [0, 1] and normalised by `mean` and `std` per channel.
    """

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    size_divisor: int = 1
    """The input height and width must be multiples of this."""
    fixed_size: bool = False
    """True where the architecture takes no other input size (position embeddings)."""
    mirror: bool = True
    """Whether a mirrored image keeps its meaning: decides if training may flip. False for glyphs."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageInput:
        """The input in `value`, as `dataclasses.asdict` and JSON left it."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"input size: {self.height}x{self.width}; must be positive")
        if self.height % self.size_divisor or self.width % self.size_divisor:
            raise ValueError(f"input size: {self.height}x{self.width}; must be a multiple of {self.size_divisor}")
        if self.channels != 3:
            raise ValueError(f"channels: {self.channels}; images are read as RGB, so 3")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std: {self.mean}, {self.std}; one value per channel")
        if not 0 <= min(self.mean) <= max(self.mean) <= 1:
            raise ValueError(f"mean: {self.mean}; in [0, 1], as pixels are before it is taken off (not 0 to 255)")
        if not 1 / 256 <= min(self.std) <= max(self.std) <= 1:
            raise ValueError(f"std: {self.std}; in [1/256, 1], of pixels in [0, 1] (not 0 to 255)")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction: {self.crop_fraction}; must be in (0, 1]")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation: {self.interpolation!r}; one of {get_args(Interpolation)}")

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of images that are cut out of as they are, without resizing."""
        return round(self.height / self.crop_fraction), round(self.width / self.crop_fraction)


InputSpec = ImageInput
"""The union of the inputs a backbone can have; text and audio join it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """What comes out of one stage: channels (or token width), stride against the input, order of the axes."""

    channels: int
    stride: int
    layout: Layout = "NCHW"
    """Feature maps are NCHW or NHWC; tokens are NTC, and `stride` is then that of the patches."""
    branches: Sequence[StageSpec | None] = ()
    """Of backbones side by side, whose activations are tuples: what comes out of each, None of one not yet begun."""

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout: {self.layout!r}; one of {get_args(Layout)}")
        if self.channels < 1 or self.stride < 1:
            raise ValueError(f"stage: channels {self.channels}, stride {self.stride}; must be positive")

    def to_json(self) -> dict[str, Any]:
        """What is known of a stage of one backbone, as JSON values."""
        return {"channels": self.channels, "stride": self.stride, "layout": self.layout}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSpec:
    """One pretrained set of weights and every fact that belongs to it rather than to the architecture."""

    tag: str
    url: str
    """http(s) or file URL, or `package:NAME/PATH` for a file that an installed package ships."""
    sha256: str | None
    """All 64 hexadecimal digits, or the first 8 where the publisher gives only those; None where it gives none: then
    the file that is fetched first is kept to."""
    pretrained_on: str
    license: str
    input: InputSpec
    num_classes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Source-task metrics as fractions, e.g. {"acc@1": 0.698}."""
    file_name: str | None = None
    """What the file is called in caches and on mirrors, where the last part of `url` does not tell it from others."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WeightsSpec:
        """The weights in `value`, as `dataclasses.asdict` and JSON left it."""
        return cls(**{**value, "input": ImageInput.from_json(value["input"])})

    def __post_init__(self) -> None:
        check_name(self.tag, "weights tag")
        if self.sha256 is not None and not _SHA256.match(self.sha256):
            raise ValueError(f"sha256 of {self.tag}: {self.sha256!r}; 64 (or the first 8) hexadecimal digits")
        if self.num_classes < 0:
            raise ValueError(f"num_classes of {self.tag}: {self.num_classes}; 0 (no classifier) or more")
        if not isinstance(self.input, ImageInput):
            raise TypeError(f"input of {self.tag}: {self.input!r}; must be an ImageInput")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """One architecture: facts, a way to build it, a way to split it into stages, its pretrained weights.

    `build()` gives the native untrained module with its source classifier, so that published weights load
    strictly; `split(module)` then gives the staged `Backbone` that shares its parameters. Both import torch only
    when called. The first entry of `weights` is the default.
    """

    name: str
    family: str
    num_features: int
    """Width of the pooled embedding."""
    params: int
    """Parameters of the backbone without its source classifier."""
    macs: int
    """Multiply-accumulate operations of one forward pass at the default input size, without the classifier."""
    build: Callable[[], nn.Module]
    split: Callable[[nn.Module], Backbone]
    stages: Sequence[StageSpec]
    weights: Sequence[WeightsSpec]
    input: InputSpec
    """The input where no pretrained weights say otherwise (`scratch`, a weights file)."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _BACKBONE.match(self.name):
            raise ValueError(f"backbone name: {self.name!r}; use letters, digits, '_', '.', '-', ':' and '/'")
        for value, what in (
            (self.num_features, "num_features"),
            (self.params, "params"),
            (self.macs, "macs"),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} of {self.name}: {value!r}; a positive whole number")
        if not callable(self.build) or not callable(self.split):
            raise TypeError(f"build and split of {self.name}: must be functions")
        if not self.stages:
            raise ValueError(f"stages of {self.name}: none; a backbone has at least one stage")
        tags = [w.tag for w in self.weights]
        if len(set(tags)) != len(tags):
            raise ValueError(f"weights of {self.name}: {tags}; every tag once")

    def find_weights(self, tag: str) -> WeightsSpec | None:
        """The weights with this tag, or None."""
        return next((w for w in self.weights if w.tag == tag), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """One kind of task head: how it is built on a backbone and how its outputs are trained and read."""

    name: str
    task: Literal["classification"]
    needs: Needs
    build: Callable[[int, int, Mapping[str, Any]], nn.Module]
    """`build(num_features, num_classes, options)` -> module from embedding [N, num_features] to logits."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """`loss(logits [N, C], labels [N])` -> scalar tensor."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Names and defaults of the options `build` understands."""
    summary: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "head")
        if self.needs not in get_args(Needs):
            raise ValueError(f"needs of head {self.name}: {self.needs!r}; one of {get_args(Needs)}")
        if not callable(self.build) or not callable(self.loss):
            raise TypeError(f"build and loss of head {self.name}: must be functions")
