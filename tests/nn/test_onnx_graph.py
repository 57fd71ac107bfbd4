"""Attention in the forms the exporter stumbles over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.beit import Beit
from timm.models.hiera import Hiera
from torch import nn

from zoo.nn.onnx_graph import export_graph
from zoo.runtime.session import open_session


@pytest.mark.parametrize(
    "module",
    [
        Beit(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3, use_rel_pos_bias=True),
        nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)),
        Hiera(img_size=(32, 32), embed_dim=8, num_heads=1, stages=(1, 1), q_pool=1, num_classes=3),
    ],
    ids=["with a mask", "by position", "five dimensions"],
)
def test_attention_is_exported(module: nn.Module, tmp_path: Path) -> None:
    attention = nn.functional.scaled_dot_product_attention
    images = torch.randn(3, 3, 32, 32)
    axes = {0: torch.export.Dim("batch")}
    proto = export_graph(module.eval(), images[:2], inputs="images", outputs=["logits"], axes=axes)
    assert nn.functional.scaled_dot_product_attention is attention
    path = tmp_path / "attention.onnx"
    path.write_bytes(proto.SerializeToString())
    [found] = open_session(path, device="cpu").run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(images).detach(), rtol=1e-4, atol=1e-5)
