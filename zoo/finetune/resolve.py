"""Names in a request to the things they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zoo.artifacts.files import sha256_file
from zoo.artifacts.runs import ModelRecord
from zoo.catalogue import BackboneEntry, Catalogue, HeadEntry
from zoo.catalogue.composites import ARROW, parse_chain, parse_fusion, separator, split
from zoo.catalogue.weights import fetch_weights
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.errors import UsageError, WeightsError, did_you_mean
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.strategies import STRATEGIES
from zoo.nn.composite import Entry
from zoo.nn.surgery import drop_stages
from zoo.progress import Progress
from zoo.specs import BackboneSpec, ImageInput, WeightsSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the caller's surroundings give: installed plugins, where the cache is, where downloads come from."""

    catalogue: Catalogue
    cache: Path
    mirror: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The backbone, head and weights of a request."""

    backbone: Entry
    head: HeadEntry
    weights: Path | None
    weights_name: str
    """Tag of the pretrained set, `file:<name>`, or `none`."""
    weights_license: str | None
    pretrained_on: str | None
    input: ImageInput
    drop_stages: int
    upstream_stages: int = 0
    """Of a chain: the stages that come before those of its last backbone."""

    @property
    def link(self) -> BackboneEntry:
        """The backbone, which is a single one, as part of a chain."""
        assert isinstance(self.backbone, BackboneEntry)
        return self.backbone

    @property
    def staged(self) -> BackboneSpec:
        """The backbone as it is trained: without dropped stages."""
        return drop_stages(self.backbone.spec, self.drop_stages)

    def record(self, classes: tuple[str, ...], head_options: dict[str, object]) -> ModelRecord:
        """The record that goes into the run."""
        return ModelRecord(
            backbone=self.backbone.id,
            distribution=self.backbone.source,
            weights=self.weights_name,
            weights_sha256=sha256_file(self.weights) if self.weights is not None else None,
            weights_license=self.weights_license,
            pretrained_on=self.pretrained_on,
            input=self.input,
            head=self.head.id,
            head_options=head_options,
            classes=classes,
            drop_stages=self.drop_stages,
        )


def open_data(
    request: FinetuneRequest, environment: Environment, progress: Progress, *, for_training: bool = True
) -> DataSet:
    """The images of a request, every one in a split; see `open_dataset`."""
    return open_dataset(
        request.data,
        cache=environment.cache,
        progress=progress,
        seed=request.seed,
        shots=request.shots,
        val_share=request.val_share,
        for_training=for_training,
    )


def resolve(request: FinetuneRequest, environment: Environment, progress: Progress) -> list[Resolved]:
    """What a request names, its weights fetched and verified: one backbone, or several in order.

    Raises UsageError for unknown names or an input size a backbone does not take, WeightsError where the weights
    cannot be had.
    """
    sign = separator(request.backbone)
    if sign is None:
        return [_resolve(request, environment, progress)]
    names = parse_chain(request.backbone)[0] if sign == ARROW else parse_fusion(request.backbone)
    weights = split_weights(request.weights, len(names))
    parts = [replace(request, backbone=n, weights=w, drop_stages=0) for n, w in zip(names, weights, strict=True)]
    return [_resolve(part, environment, progress) for part in parts]


def split_weights(weights: str | None, count: int) -> list[str | None]:
    """The weights of each of `count` backbones, as in `a.pth -> b.pth`."""
    if weights in (None, "none"):
        return [weights] * count
    found = split(weights)
    if len(found) != count:
        raise UsageError(f"--weights: {weights!r} for {count} backbones; give one for each, in order")
    return list(found)


def _resolve(request: FinetuneRequest, environment: Environment, progress: Progress) -> Resolved:
    catalogue = environment.catalogue
    backbone, tagged = catalogue.find_backbone(request.backbone)
    head = catalogue.find_head(request.head)
    for option in request.head_options:
        if option not in head.spec.options:
            hint = did_you_mean(option, head.spec.options) or f"known: {', '.join(head.spec.options) or 'none'}"
            raise UsageError(f"unknown option of head {head.id}: {option!r}; {hint}")
    spec: WeightsSpec | None = None
    path: Path | None = None
    if request.strategy == "auto" or STRATEGIES[request.strategy].pretrained:
        if request.weights is not None and _is_file(request.weights):
            path = Path(request.weights)
            if not path.is_file():
                raise WeightsError(f"no such weights file: {path}; give the path of one, or a tag")
        else:
            spec = _find_set(backbone, tagged, request.weights)
            path = fetch_weights(spec, environment.cache, mirror=environment.mirror, progress=progress)
    input_spec = spec.input if spec else backbone.spec.input
    if request.mirror is not None:
        input_spec = replace(input_spec, mirror=request.mirror)
    return Resolved(
        backbone=backbone,
        head=head,
        weights=path,
        weights_name=spec.tag if spec else "none" if path is None else f"file:{path.name}",
        weights_license=spec.license if spec else None,
        pretrained_on=spec.pretrained_on if spec else None,
        input=_resize(input_spec, request.input_size, backbone.id),
        drop_stages=request.drop_stages,
    )


def head_options(resolved: Resolved, request: FinetuneRequest) -> dict[str, object]:
    """The head's options, defaults filled in."""
    return {**resolved.head.spec.options, **request.head_options}


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in (".pth", ".pt", ".bin", ".safetensors") or Path(weights).exists()


def _find_set(backbone: BackboneEntry, tagged: WeightsSpec | None, tag: str | None) -> WeightsSpec:
    known = [weights.tag for weights in backbone.spec.weights]
    if tag is None:
        if tagged is not None:
            return tagged
        if not known:
            raise WeightsError(f"{backbone.id} has no pretrained weights; give --weights FILE or --strategy scratch")
        return backbone.spec.weights[0]
    found = backbone.spec.find_weights(tag)
    if found is None:
        hint = did_you_mean(tag, known) or f"known: {', '.join(known) or 'none'}; or give a file"
        raise WeightsError(f"unknown weights of {backbone.id}: {tag!r}; {hint}")
    return found


def _resize(spec: ImageInput, size: int | None, name: str) -> ImageInput:
    if size is None:
        return spec
    if spec.fixed_size and (size, size) != (spec.height, spec.width):
        raise UsageError(f"--input-size {size}: {name} takes {spec.height} x {spec.width} only; leave it out")
    try:
        return replace(spec, height=size, width=size)
    except ValueError as error:
        raise UsageError(f"--input-size {size}: {error}") from None
