"""A trained model to one ONNX graph: uint8 pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn

from zoo.artifacts.manifest import EMBEDDING, INPUT, METADATA_KEY, OUTPUT, ModelManifest
from zoo.artifacts.seal import ONNX_KEY, UNSEALED
from zoo.export.passes import simplify
from zoo.nn.model import TransferModel
from zoo.nn.onnx_graph import export_graph

MemberOf = Callable[[str], int | None]

MEMBER = "member{number}/"
"""Before the names of all nodes of one part of a cascade."""
PREPROCESS = "preprocess/"
"""Before the names of nodes between an image file's pixels and the network; within a member, after that's."""
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that a node comes from."""
_BACKBONE = "model.backbone"
_EXAMPLE_SIZE = (97, 131)
"""Odd and unequal, so that no axis is taken for another; any size works."""
_MAX_SIDE = 32_768


class Serving(nn.Module):
    """The model as it is served: preprocessing before it and, where it stands alone, softmax behind it."""

    def __init__(self, model: TransferModel, *, logits: bool = False) -> None:
        super().__init__()
        self.model = model
        self.logits = logits

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, or logits, [N, C] of uint8 images [N, H, W, 3] of any size, and what the head sees [N, D]."""
        _, embedding = self.model.run(self.model.preprocess(image))
        found = self.model.classify(embedding)
        return found if self.logits else found.softmax(1), embedding


def to_onnx(
    model: TransferModel, *, logits: bool = False, embedding: bool = False, member_of: MemberOf | None = None
) -> onnx.ModelProto:
    """The ONNX graph of a model, batch and image size free, without traces of this machine.

    Nodes of the preprocessing are named as such, and of several backbones as one, nodes are named after the one they
    belong to, which `member_of` tells by the name of their module. Raises ModelError where the exporter cannot handle
    the backbone.
    """
    axes = {0: torch.export.Dim("batch"), 1: _side("height"), 2: _side("width")}
    example = torch.zeros(2, *_EXAMPLE_SIZE, 3, dtype=torch.uint8)
    proto = export_graph(Serving(model, logits=logits), example, inputs=INPUT, outputs=[OUTPUT, EMBEDDING], axes=axes)
    if not embedding:
        del proto.graph.output[1:]
    simplify(proto)
    _name_parts(proto, member_of)
    strip(proto)
    return proto


def attach_manifest(proto: onnx.ModelProto, manifest: ModelManifest) -> None:
    """Puts the manifest into the model's metadata, in place of an earlier one, and the place of the file's digest."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    proto.metadata_props.add(key=ONNX_KEY, value=UNSEALED)


def _side(name: str) -> torch.export.Dim:
    return torch.export.Dim(name, min=1, max=_MAX_SIDE)


def _name_parts(proto: onnx.ModelProto, member_of: MemberOf | None) -> None:
    """Puts the part that a node belongs to before its name: nodes are in the order of computation, those of no backbone
    belong to the one before them, and before all of them stands the preprocessing. And before the names of their
    outputs, after which ONNX Runtime names what it makes of several nodes."""
    prefix, renamed = PREPROCESS, dict[str, str]()
    kept = {output.name for output in proto.graph.output}
    for node in proto.graph.node:
        scopes = next((prop.value for prop in node.metadata_props if prop.key == _SCOPES), "")
        member = member_of(scopes) if member_of is not None else None
        if member is not None:
            prefix = MEMBER.format(number=member)
        elif _BACKBONE in scopes and prefix == PREPROCESS:
            prefix = "" if member_of is None else MEMBER.format(number=0)
        renamed |= {name: prefix + name for name in node.output if name and name not in kept}
        node.name = prefix + node.name
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def strip(proto: onnx.ModelProto) -> None:
    """Takes out what tools note about themselves and the machine: stack traces with absolute paths, doc strings.

    `value_info` goes too: it lists initialisers, which later stops ONNX Runtime's quantiser. So do operator sets that
    nothing belongs to, which an older ONNX Runtime might not know.
    """
    del proto.metadata_props[:]
    proto.doc_string = ""
    proto.producer_name, proto.producer_version = "zoo", ""
    graph = proto.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
    nodes = [*graph.node, *(node for function in proto.functions for node in function.node)]
    domains = {"", *(node.domain for node in nodes)}
    for number in reversed(range(len(proto.opset_import))):
        if proto.opset_import[number].domain not in domains:
            del proto.opset_import[number]
    for item in [*nodes, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
