"""A card and a bill of materials that other tools read, with what the manifest knows and no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from helpers import draw
from huggingface_hub import ModelCard
from PIL import Image

from zoo.artifacts.files import sha256_file
from zoo.artifacts.seal import ONNX_KEY, UNSEALED, seal
from zoo.report.card import write_card
from zoo.runtime.model import OnnxModel

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _with_manifest(model: Path, out: Path, **facts: object) -> Path:
    """The model with other facts in its manifest, whole again."""
    proto = onnx.load(model)
    manifest, digest = proto.metadata_props
    assert digest.key == ONNX_KEY
    manifest.value, digest.value = json.dumps({**json.loads(manifest.value), **facts}), UNSEALED
    out.write_bytes(seal(proto.SerializeToString()))
    return out


def test_hubs_read_the_card(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("card", model, "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["card"] == str(tmp_path / "shapes.md")
    card = ModelCard.load(tmp_path / "shapes.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy"]
    [result] = card.data.eval_results
    manifest = OnnxModel(model, device="cpu").require_manifest("test")
    assert result.metric_value == manifest.metrics["test_accuracy"]
    for fact in (manifest.data_fingerprint, manifest.run_sha256, manifest.source_weights_sha256, sha256_file(model)):
        assert f"`{fact}`" in card.text
    assert re.search(r"\| test images \| \S+\s% \| \S+ to \S+\s% \| 24 \|", card.text)
    assert card.text.endswith("\n")


def test_the_program_in_the_card_runs(model: Path, tmp_path: Path) -> None:
    write_card(model, tmp_path)
    [program] = re.findall(r"```python\n(.*?)```", (tmp_path / "shapes.md").read_text(), re.DOTALL)
    Image.fromarray(draw("dots", 5)).save(tmp_path / "image.jpg")
    (tmp_path / "shapes.onnx").symlink_to(model)
    program += "\nprint(probabilities.tolist())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.argmax(json.loads(done.stdout)) == 1


def test_the_bill_of_materials_fits_its_schema(model: Path, tmp_path: Path) -> None:
    members = [
        {"backbone": name, "weights": "one", "weights_license": license_, "weights_sha256": "0" * 64}
        for name, license_ in (("a/b", "MIT"), ("a/b", "MIT"), ("c/d", "House rules"))
    ]
    other = _with_manifest(
        model,
        tmp_path / "two words.onnx",
        cascade={"kind": "fuse", "members": members},
        weights_license="MIT and House rules",
    )
    for path in (model, other):
        text = Path(write_card(path, tmp_path)["sbom"]).read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        bill = json.loads(text)
        described = bill["metadata"]["component"]
        assert (described["name"], described["type"]) == (path.name, "machine-learning-model")
        assert described["hashes"] == [{"alg": "SHA-256", "content": sha256_file(path)}]
        libraries = {part["name"]: part["version"] for part in bill["components"] if part["type"] == "library"}
        assert libraries == OnnxModel(path, device="cpu").require_manifest("test").versions
    assert described["licenses"] == [{"license": {"id": "MIT"}}, {"license": {"name": "House rules"}}]
    weights = [part["name"] for part in bill["components"] if part["type"] == "machine-learning-model"]
    assert sorted(weights) == ["a/b@one", "c/d@one", "trained weights"]


def test_what_is_not_known_is_said(model: Path, tmp_path: Path) -> None:
    labels = ["a|b", "*c*", "d\ne"]
    measured = {"faster": {"1": 2.0, "8": 2.5}, "agreement": 0.98, "agreement95": (0.93, 0.99), "loss": 0.01}
    measured |= {"precision": "int8", "refused": "98.0% get the same label", "layers_kept": 3, "images": 100}
    variants = [{**measured, "loss95": (-0.01, 0.03)}, {**measured, "refused": "slow", "agreement": None}]
    facts = {"weights": "file:mine.pth", "weights_license": None, "images": None, "intervals95": None}
    odd = _with_manifest(model, tmp_path / "odd.onnx", labels=labels, variants=variants, **facts)
    text = Path(write_card(odd, tmp_path)["card"]).read_text()
    assert "| tiny/glyphnet@file:mine.pth | unknown: ask who made the weights | `" in text
    assert "license: unknown" in text
    assert r"a\|b, \*c\*, d e" in text
    assert "| int8, 3 layers in fp32 | no: 98.0% get the same label | 2.00 at batch 1, 2.50 at batch 8 | 98.0" in text
    assert "| no: slow | 2.00 at batch 1, 2.50 at batch 8 | - | - |" in text
    assert "| training | unknown |" in text
    scratch = _with_manifest(model, tmp_path / "scratch.onnx", weights="none", weights_license=None)
    text = Path(write_card(scratch, tmp_path)["card"]).read_text()
    assert "None: it was trained from random weights." in text


def test_files_of_others_are_left_alone(model: Path, tensor_model: Path, zoo: Zoo, tmp_path: Path) -> None:
    assert zoo("card", model, "-o", tmp_path).returncode == 0
    assert zoo("card", model, "-o", tmp_path).returncode == 0
    for name in ("shapes.md", "shapes.cdx.json"):
        mine = tmp_path / name
        before = mine.read_text()
        mine.write_text("my own words")
        done = zoo("card", model, "-o", tmp_path)
        assert (done.returncode, mine.read_text()) == (2, "my own words")
        assert "already there and not a card" in done.stderr
        mine.write_text(before)
    assert zoo("card", tensor_model, "-o", tmp_path).returncode == 8
    assert "no such folder" in zoo("card", model, "-o", tmp_path / "no").stderr


def test_the_extra_is_asked_for(model: Path, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    done = zoo("card", model, "-o", tmp_path)
    assert done.returncode == 10
    assert "pip install 'zoo[card]'" in done.stderr
    assert not list(tmp_path.iterdir())
