"""The plugin under plugins/examples goes the whole way of a stranger's: built, installed, used, and taken out again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import SHAPES

Zoo = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLE = Path(__file__).parents[2] / "plugins" / "examples" / "zoo-cifar"
SERVE = """
import json, subprocess, sys
from urllib.request import Request, urlopen
server = subprocess.Popen([sys.executable, "-m", "zoo_cli", "serve", "m.onnx", "--port", "0", "--json"],
                          stdout=subprocess.PIPE, text=True)
url = json.loads(server.stdout.readline())["url"]
image = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0, 128] * 6}
request = Request(f"{url}/v2/models/m/infer", json.dumps({"inputs": [image]}).encode())
print(json.load(urlopen(request))["outputs"][0]["shape"])
server.terminate()
server.wait()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of the example."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=source, check=True)
    return folder


@pytest.fixture(scope="module")
def fresh(make_environment: Callable[..., Zoo]) -> Zoo:
    """The command line in an environment of its own, which builds with what is there."""
    return make_environment(PIP_NO_BUILD_ISOLATION="0")


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "kind",
    [pytest.param("*.whl", marks=pytest.mark.slow), pytest.param("*.tar.gz", marks=pytest.mark.exhaustive)],
)
def test_the_whole_way(kind: str, built: Path, fresh: Zoo, dataset: Path, tmp_path: Path) -> None:
    [package] = built.glob(kind)
    installed = _json(fresh("plugins", "install", package, "--any", "--yes", "--json"))
    brought = {"plugin": "cifar", "error": None, "backbones": ["cifar/resnet20", "cifar/resnet56"]}
    assert installed["plugins"] == [{**brought, "heads": [], "findings": []}]
    listed = {row["name"]: row for row in json.loads(fresh("plugins", "list", "--json").stdout)}
    assert (listed["cifar"]["status"], listed["cifar"]["distribution"]) == ("ok", "zoo-cifar")
    assert "zoo_cifar" not in fresh("-X", "importtime", "-m", "zoo_cli", "--help").stderr
    assert _json(fresh("plugins", "check", "cifar", "--deep", "--json"))["ok"] is True
    options = ("--strategy", "scratch", "--epochs", 2, "--device", "cpu", "--out", "run", "--json")
    trained = _json(fresh("finetune", dataset, "--backbone", "resnet20", *options, cwd=tmp_path))
    assert trained["backbone"] == "cifar/resnet20"
    assert fresh("export", "run", "-o", "m.onnx", cwd=tmp_path).returncode == 0
    served = fresh("-c", SERVE, cwd=tmp_path)
    assert json.loads(served.stdout) == [1, len(SHAPES)], served.stderr
    _json(fresh("plugins", "remove", "cifar", "--yes", "--json"))
    assert "cifar" not in {row["name"] for row in json.loads(fresh("plugins", "list", "--json").stdout)}
    for command in (("export", "run"), ("evaluate", "run", dataset)):
        left = fresh(*command, cwd=tmp_path)
        assert left.returncode == 5
        assert "backbone cifar/resnet20 is not installed: 'cifar'; `pip install zoo-cifar==0.1.0`" in left.stderr
    assert fresh("predict", "m.onnx", next((dataset / "test").rglob("*.jpg")), cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_its_weights_are_those_that_are_published(
    shared: Path, built: Path, fresh: Zoo, dataset: Path, tmp_path: Path
) -> None:
    [wheel] = built.glob("*.whl")
    assert fresh("plugins", "install", wheel, "--any", "--yes").returncode == 0
    weights = next((shared / "weights").glob("cifar10_resnet20-*.pth"))
    words = ("--backbone", "cifar/resnet20", "--weights", weights, "--strategy", "probe", "--device", "cpu", "--json")
    assert float(str(_json(fresh("finetune", dataset, *words))["test_accuracy"])) > 0.8
    # Beside a backbone of Zoo's own in one cascade.
    both = ("--backbone", "tiny/glyphnet", "--weights", "glyphs_v1", "--cascade", "fuse", "--val-share", "0.3")
    fused = _json(fresh("finetune", dataset, *words[:4], *both, *words[6:], "--out", tmp_path / "both"))
    assert [probe["backbone"] for probe in fused["probes"]] == ["cifar/resnet20", "tiny/glyphnet"]
    assert fresh("export", tmp_path / "both", "-o", tmp_path / "both.onnx").returncode == 0
    assert fresh("plugins", "remove", "cifar", "--yes").returncode == 0
