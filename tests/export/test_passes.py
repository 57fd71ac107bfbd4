"""What is written again gives the same answers: normalisation within the first convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from zoo.export.graph import to_onnx
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel
from zoo.specs import ImageInput

SPEC = ImageInput(height=24, width=32, mean=(0.2, 0.5, 0.7), std=(0.1, 0.25, 0.4), crop_fraction=0.8)


def _model(first: nn.Module) -> TransferModel:
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(stages=[nn.Sequential(first, nn.ReLU())], pool=pool, source_head=None)
    return TransferModel(backbone=backbone, head=nn.Linear(6, 4), input_spec=SPEC).eval()


@pytest.mark.parametrize(
    ("first", "left"),
    [
        (nn.Conv2d(3, 6, 3, stride=2), []),  # nothing is padded: all of it goes into weights and bias
        (nn.Conv2d(3, 6, 3, bias=False), []),
        (nn.Conv2d(3, 6, 3, padding=1), ["Sub"]),  # what is padded is the mean: it is taken off before
        (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 6, 1)), ["Sub", "Div"]),
    ],
)
def test_normalisation_goes_into_the_first_convolution(first: nn.Module, left: list[str], tmp_path: Path) -> None:
    model, path = _model(first), tmp_path / "model.onnx"
    proto = to_onnx(model)
    onnx.save(proto, path)
    pixels = [node.op_type for node in proto.graph.node if len(node.input) > 1 and _per_channel(proto, node.input[1])]
    assert pixels == left
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 30, 40, 3), (3, 24, 32, 3), (2, 90, 17, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        with torch.inference_mode():
            ours = model(model.preprocess(torch.from_numpy(image))).softmax(1).numpy()
        assert np.abs(session.run(None, {"image": image})[0] - ours).max() < 1e-5


def test_parts_have_names() -> None:
    nodes = to_onnx(_model(nn.Conv2d(3, 6, 3))).graph.node
    parts = [node.name.startswith("preprocess/") for node in nodes]
    first = next(number for number, node in enumerate(nodes) if node.op_type == "Conv")
    assert parts == [True] * first + [False] * (len(nodes) - first)


def _per_channel(proto: onnx.ModelProto, name: str) -> bool:
    return any(each.name == name and list(each.dims)[:3] == [1, 3, 1] for each in proto.graph.initializer)
