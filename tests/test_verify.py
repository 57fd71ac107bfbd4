"""Damage anywhere in an exported file is found before it answers, and `zoo verify` says what is wrong with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import draw
from PIL import Image

from zoo.artifacts.manifest import METADATA_KEY
from zoo.artifacts.seal import ONNX_KEY, UNSEALED, seal
from zoo.errors import ModelError
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import cuda_devices
from zoo.serve.repository import Place
from zoo.serve.request import ServeRequest
from zoo.serve.run import load_model
from zoo.serve.settings import ModelSettings

Zoo = Callable[..., subprocess.CompletedProcess[str]]

_FLIPS = 1000


def _refused(damaged: Path) -> bool:
    try:
        OnnxModel(damaged, device="cpu", threads=1)
    except ModelError:
        return True
    return False


def _flip(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def test_a_flipped_byte_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    """A thousand places at random, those of the metadata as often as those of the weights, each another value."""
    content, damaged, random = model.read_bytes(), tmp_path / "damaged.onnx", np.random.default_rng(0)
    metadata = content.index(b'{"task"')
    places = [
        *random.integers(0, len(content), _FLIPS // 2).tolist(),
        *random.integers(metadata, len(content), _FLIPS // 2).tolist(),
    ]
    accepted = []
    for place in places:
        damaged.write_bytes(_flip(content, place, int(random.integers(1, 256))))
        if not _refused(damaged):
            accepted.append(place)
    assert accepted == []


def test_a_flipped_bit_in_the_name_of_the_digest_is_refused(model: Path, tmp_path: Path) -> None:
    """Where the digest is no longer found, nothing but the manifest knows that there was one."""
    content, damaged = model.read_bytes(), tmp_path / "damaged.onnx"
    name = content.rindex(ONNX_KEY.encode())
    for place in range(name - 4, name + len(ONNX_KEY) + 2):
        for bit in range(8):
            damaged.write_bytes(_flip(content, place, 1 << bit))
            assert _refused(damaged), (place - name, bit)


def test_damage_is_refused_on_the_command_line(model: Path, dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    content, damaged = model.read_bytes(), tmp_path / "damaged.onnx"
    image = next((dataset / "test" / "dots").iterdir())
    commands = (["verify", damaged], ["predict", damaged, image], ["serve", damaged, "--port", "0"])
    for place in (len(content) // 2, content.index(b'"labels"') + 1, content.rindex(ONNX_KEY.encode()) + 20):
        damaged.write_bytes(_flip(content, place, 1))
        for words in commands:
            done = zoo(*words, "--device", "cpu")
            assert done.returncode == 8, words
            # The table of `zoo verify` says more than its last line.
            assert "file is damaged" in " ".join((done.stdout + done.stderr).split())


def test_verify_reports_every_check(model: Path, tensor_model: Path, run: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("verify", model, "--run", run, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["ok"]
    assert [check["check"] for check in found["checks"]] == ["file", "manifest", "golden answers, cpu", "parent run"]
    assert found["checks"][0]["detail"] == "whole: its digest is right"
    assert found["checks"][2]["detail"].startswith("off by ")

    done = zoo("verify", tensor_model, tmp_path / "no.onnx", model, "--device", "cpu", "--json")
    assert done.returncode == 8
    found = json.loads(done.stdout)
    assert (found["ok"], found["exit_code"], found["error"][:21]) == (False, 8, "2 of 6 checks failed:")
    wrong = {check["model"]: check["detail"] for check in found["checks"] if not check["ok"]}
    assert "model has no Zoo manifest" in wrong[str(tensor_model)]
    assert "no such model" in wrong[str(tmp_path / "no.onnx")]

    done = zoo("verify", tensor_model, model, "--device", "cpu")
    assert done.returncode == 8
    assert "golden answers, cpu" in done.stdout
    assert done.stderr.startswith(f"error: 1 of 5 checks failed: {tensor_model};")


def test_verify_knows_the_run_that_a_model_comes_from(model: Path, run: Path, zoo: Zoo, tmp_path: Path) -> None:
    def verify() -> tuple[int, str]:
        done = zoo("verify", model, "--run", copy, "--device", "cpu", "--json")
        value = json.loads(done.stdout)
        return done.returncode, value["checks"][-1]["detail"] if "checks" in value else value["error"]

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert verify() == (0, "has the same weights and records")
    request = (copy / "request.json").read_text()
    (copy / "request.json").write_text(request.replace('"seed": 0', '"seed": 1'))
    assert "its records have other digests" in verify()[1]
    weights = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(_flip(weights, len(weights) - 1, 1))
    code, said = verify()
    assert code == 7
    assert "weights of the run are not those it finished with" in said


def test_verify_computes_golden_answers(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    """A file that is whole, and does not answer as it should: as on a machine that computes wrongly."""
    proto, other = onnx.load(model), tmp_path / "other.onnx"
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.3)).tobytes()
    next(prop for prop in proto.metadata_props if prop.key == ONNX_KEY).value = UNSEALED
    other.write_bytes(seal(proto.SerializeToString()))
    done = zoo("verify", other, "--device", "cpu", "--json")
    assert done.returncode == 8
    assert [check["ok"] for check in json.loads(done.stdout)["checks"]] == [True, True, False]


@pytest.mark.gpu
def test_verify_computes_golden_answers_on_every_device(model: Path, zoo: Zoo) -> None:
    assert cuda_devices()
    done = zoo("verify", model, "--json")
    assert done.returncode == 0, done.stdout
    names = [check["check"] for check in json.loads(done.stdout)["checks"]]
    assert names[-2:] == ["golden answers, cpu", "golden answers, cuda"]


_SCHEMA_1 = """{"schema": 1, "task": "classification", "labels": ["bars", "dots", "rings"], "input": {"height": 32,
"width": 32, "channels": 3, "mean": [0.38, 0.38, 0.38], "std": [0.31, 0.31, 0.31], "crop_fraction": 1.0,
"interpolation": "bilinear", "size_divisor": 8, "fixed_size": false, "mirror": false}, "backbone": "tiny/glyphnet",
"weights": "glyphs_v1", "weights_license": "Apache-2.0", "pretrained_on": "198 rendered letters (zoo_tiny._train)",
"strategy": "probe", "run_weights_sha256": "17dcc153420aa6560324d2877a53c537337aefe661389421554cbdea6fe0ddf2",
"source_weights_sha256": "85ce84785beeb82a282e4d158fd7a05f8a37e64da8277199bdb2436f7c28012d",
"data_fingerprint": "57987a0c403bd0efe55cc71a74823b14d0d384c9653b640940fde08eb232c448", "seed": 0,
"metrics": {"val_accuracy": 1.0, "test_accuracy": 1.0},
"parity": {"max_abs": 2.9e-07, "batches": [1, 2, 3, 8], "images": 11}, "golden": [{"height": 48, "width": 64, "seed": 0,
"probabilities": GOLDEN}], "versions": {"zoo": "0.1.0", "torch": "2.15.0", "onnx": "1.23.2", "onnxscript": "0.7.2"},
"cascade": null}"""
"""A manifest as the first Zoo wrote it, but for the answers of a model made now."""


def test_models_of_an_earlier_zoo_are_taken(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    proto, old = onnx.load(model), tmp_path / "old.onnx"
    golden = OnnxModel(model, device="cpu").require_manifest("test").golden[0]
    del proto.metadata_props[:]
    manifest = _SCHEMA_1.replace("GOLDEN", json.dumps(golden.probabilities))
    proto.metadata_props.add(key=METADATA_KEY, value=manifest)
    onnx.save(proto, old)
    done = zoo("verify", old, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stdout
    details = [check["detail"] for check in json.loads(done.stdout)["checks"]]
    assert details[0] == "loads, and holds no digest of itself"
    assert details[1].startswith("schema 1, of a Zoo that wrote no digests into files")
    Image.fromarray(draw("dots", 5)).save(tmp_path / "dots.png")
    [answer] = json.loads(zoo("predict", old, tmp_path / "dots.png", "--device", "cpu", "--json").stdout)
    assert answer["label"] == "dots"
    served = load_model(
        Place("old", 1, old), ServeRequest(models=(old,), device="cpu", settings=ModelSettings(threads=1))
    )
    assert served.labels["probabilities"] == ("bars", "dots", "rings")
