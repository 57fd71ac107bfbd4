"""A canary and a shadow beside the version that answers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import onnx
from onnx import numpy_helper
from servers import Server, Start

from zoo.artifacts.manifest import METADATA_KEY, ModelManifest
from zoo.artifacts.seal import seal
from zoo.export.graph import attach_manifest


def test_a_canary_answers_its_share_and_a_shadow_is_compared(
    start: Start, model: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "shapes"
    for version in ("1", "2", "3"):
        (folder / version).mkdir(parents=True)
        shutil.copy(model, folder / version / "model.onnx")
    _turn_around(folder / "3" / "model.onnx")
    server = start(folder.parent, "--canary", "shapes:2=50", "--shadow", "shapes:3=100")
    images = sorted((dataset / "test").rglob("*.jpg"))[:8]
    answered = [server.ask("POST", "/predict", image.read_bytes())[1]["version"] for image in images * 5]
    assert set(answered) == {"1", "2"}
    assert 5 < answered.count("2") < 35  # fails by chance once in a million
    deadline = time.monotonic() + 10
    while sum(_shadowed(server).values()) < 40 and time.monotonic() < deadline:
        time.sleep(0.1)
    counted = _shadowed(server)
    assert sum(counted.values()) == 40
    assert counted["no"] == 40
    assert server.get("/v2/models/shapes/versions/3")["versions"] == ["1", "2", "3"]


def test_shares_that_are_none(tensor_model: Path, zoo_process: Callable[..., Any]) -> None:
    for text in ("plain", "plain:2=101", "plain:x=1"):
        done = zoo_process("serve", tensor_model, "--canary", text)
        assert done.returncode == 2
        assert "NAME:VERSION=PERCENT" in done.stderr


def _turn_around(path: Path) -> None:
    """Makes the model say another label of every image: its head's rows move on by one."""
    proto, order = onnx.load(path), [1, 2, 0]
    [gemm] = [node for node in proto.graph.node if node.op_type == "Gemm"]
    for tensor in proto.graph.initializer:
        if tensor.name in gemm.input[1:]:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value.take(order, value.shape.index(3)), tensor.name))
    text = next(prop.value for prop in proto.metadata_props if prop.key == METADATA_KEY)
    manifest = ModelManifest.from_json(text)
    golden = tuple(
        replace(each, probabilities=tuple(each.probabilities[number] for number in order)) for each in manifest.golden
    )
    attach_manifest(proto, replace(manifest, golden=golden))
    path.write_bytes(seal(proto.SerializeToString()))


def _shadowed(server: Server) -> dict[str, int]:
    with urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    rows = [line for line in lines if line.startswith("zoo_shadow_rows_total")]
    return {line.partition('agrees="')[2].partition('"')[0]: int(float(line.rpartition(" ")[2])) for line in rows}
