"""Models of timm as backbones: named as timm names them, split so that nothing changes, weights from files and hubs."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.errors import MissingExtraError, UsageError
from zoo.specs import BackboneSpec
from zoo.testing import check_backbone

Zoo = Callable[..., subprocess.CompletedProcess[str]]
CATALOGUE = Catalogue.installed({"timm"})
# timm's own small models for tests, one or more of each kind, and one whose code looks into its first module.
NAMES = [*timm.list_models("test_*"), "efficientvit_m0", "levit_128s", "xcit_nano_12_p16_224"]
QUICK = ("test_resnet", "test_vit")


def _spec(name: str) -> BackboneSpec:
    return CATALOGUE.find_backbone(f"timm/{name}")[0].spec


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_stages_compute_what_the_model_does(name: str) -> None:
    spec = _spec(name)
    torch.manual_seed(0)
    model = spec.build().eval()
    images = torch.randn(2, 3, spec.input.height, spec.input.width)
    backbone = spec.split(model).eval()
    with torch.no_grad():
        features = model.forward_features(images)
        expected = model.forward_head(features, pre_logits=True), model(images)
        last = backbone.run_stages(images.clone())
        torch.testing.assert_close(last, features)
        torch.testing.assert_close(backbone.pool(last), expected[0])
        torch.testing.assert_close(backbone.source_head(last), expected[1])
    assert 3 <= len(spec.stages) <= 6


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_contract(name: str) -> None:
    assert check_backbone(_spec(name), deep=name not in QUICK) == []


def test_weights_are_named_as_timm_does() -> None:
    spec = _spec("resnet18")
    assert [weights.tag for weights in spec.weights][:2] == ["a1_in1k", "a2_in1k"]
    assert [weights.tag for weights in _spec("resnet18.a3_in1k").weights] == ["a3_in1k"]
    weights = _spec("vit_small_patch16_224.augreg_in21k_ft_in1k").weights[0]
    assert weights.url.endswith("timm/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors")
    assert weights.file_name == "timm--vit_small_patch16_224.augreg_in21k_ft_in1k.safetensors"
    assert weights.pretrained_on == "ImageNet-21k, then ImageNet-1k"
    assert (weights.license, weights.num_classes, weights.sha256) == ("apache-2.0", 1000, None)
    assert weights.input.mean == (0.5, 0.5, 0.5)
    assert (weights.input.interpolation, weights.input.crop_fraction, weights.input.fixed_size) == (
        "bicubic",
        0.9,
        True,
    )


def test_another_classifier_is_another_backbone() -> None:
    assert "augreg_in21k" not in [weights.tag for weights in _spec("vit_base_patch16_224").weights]
    assert _spec("vit_base_patch16_224.augreg_in21k").weights[0].num_classes == 21843


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", r"no model of timm .*: 'resnt18'; did you mean 'resnet18'"),
        ("resnet18.a9_in1k", r"unknown weights of timm/resnet18: 'a9_in1k'; did you mean 'a"),
        ("crossvit_9_240", r"timm/crossvit_9_240 has no features Zoo can use: .*list.*; take another"),
    ],
)
def test_names_that_nothing_answers_to(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _spec(name)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo_timm.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"timm/resnet18 needs it; pip install 'zoo\[timm\]'"):
        _spec("resnet18")


class Hub(SimpleHTTPRequestHandler):
    """Files as the hub serves them to its client: with a digest and the commit they are of."""

    def end_headers(self) -> None:
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef01234567"')
        self.send_header("X-Repo-Commit", "89abcdef0123456789abcdef0123456789abcdef")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, vit_weights: Path) -> Iterator[str]:
    """The address of a hub with one model on it."""
    files = tmp_path / "hub" / "acme" / "Leaves-ViT" / "resolve" / "main"
    files.mkdir(parents=True)
    facts = {"tag": "leaves", "input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.95,
             "interpolation": "bicubic", "num_classes": 1000, "fixed_input_size": True, "license": "mit"}  # fmt: skip
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": facts}
    (files / "config.json").write_text(json.dumps(config))
    (files / "model.safetensors").write_bytes(vit_weights.read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=tmp_path / "hub")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
def test_a_model_of_a_hub_when_it_is_asked_for(hub: str, dataset: Path, zoo_process: Zoo, tmp_path: Path) -> None:
    name, environ = "timm/hf-hub:acme/Leaves-ViT", {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    environ |= {"ZOO_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    options = ("--strategy", "probe", "--device", "cpu", "--json")
    first = zoo_process("finetune", dataset, "--backbone", name, *options, "--out", "run", **environ)
    assert first.returncode == 0, first.stderr
    assert "weights 'leaves' have no published digest; from now on they are those of sha256" in first.stderr
    assert RunFolder.open(tmp_path / "run").read_model().weights_license == "mit"
    # From now on offline.
    environ |= {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}
    again = zoo_process("weights", "fetch", name, **environ)
    assert again.returncode == 0, again.stderr
    exported = zoo_process("export", "run", "-o", "m.onnx", **environ)
    assert exported.returncode == 0, exported.stderr
    kept = zoo_process("weights", "verify", "--json", **environ)
    assert [(row["weights"], row["state"]) for row in json.loads(kept.stdout)] == [(None, "ok")]
    assert json.loads(zoo_process("weights", "prune", "--yes", "--json", **environ).stdout)["removed"] == []


def test_one_backbone_is_checked_on_the_command_line(zoo: Zoo) -> None:
    done = zoo("plugins", "check", "timm/test_resnet")
    assert (done.returncode, done.stdout) == (
        0,
        "timm/test_resnet: 1 backbones, 0 heads and 0 pretrained sets at hand do what they say\n",
    )
    assert zoo("plugins", "check", "timm/resnt18").returncode == 2
