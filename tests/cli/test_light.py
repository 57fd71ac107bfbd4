"""The command line starts fast and serving never loads torch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "lightning_fabric",
    "onnxruntime",
    "sklearn",
    "matplotlib",
    "PIL",
    "tensorboard",
    "mlflow",
    "optuna",
    "cyclonedx",
    "model_signing",
)


def _loaded(code: str, tmp_path: Path) -> str:
    report = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=tmp_path)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import zoo",
        "import zoo_cli.app",
        "import zoo.client",
        "import zoo_torchvision, zoo_heads, zoo_tiny, zoo_tensorboard, zoo_mlflow",
        "from zoo.catalogue import Catalogue; Catalogue.installed().backbones",
    ],
)
def test_nothing_heavy_is_imported(code: str, tmp_path: Path) -> None:
    assert _loaded(code, tmp_path) == "[]"


def test_serving_works_where_torch_cannot_be_imported(model: Path, tmp_path: Path) -> None:
    """As after `pip install zoo` without extras: every torch-side package fails to import."""
    for name in ("torch", "torchvision", "lightning_fabric", "onnx", "safetensors", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    code = (
        "import sys; from pathlib import Path; from zoo.serve.request import ServeRequest;"
        "from zoo.serve.run import load_model;"
        "from zoo.serve.repository import Place;"
        "from zoo.predict import predict;"
        "from zoo.bench.run import bench; from zoo.bench.tune import tune;"
        "from zoo.verify import verify; from zoo.sign import sign; from zoo.report.card import write_card;"
        "import zoo.load.run, zoo.deploy.docker, zoo.deploy.kserve, zoo.deploy.systemd;"
        "import zoo_cli.app;"
        f"model = Path({str(model)!r});"
        "load_model(Place('m', 1, model), ServeRequest(models=(model,), device='cpu'));"
        "assert 'torch' not in sys.modules"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_costs_little_more_than_typer() -> None:
    """Processor time beside that of importing Typer alone, each the best of five, taken in turns."""
    seconds: dict[str, list[float]] = {"import": [], "help": []}
    commands = {"import": ["-c", "import typer"], "help": ["-m", "zoo_cli", "--help"]}
    for _ in range(5):
        for name, arguments in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds["help"]) < 3 * min(seconds["import"])


def test_every_command_explains_itself(zoo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    commands = (
        "quickstart",
        "list backbones",
        "list heads",
        "list weights",
        "show",
        "plugins list",
        "plugins check",
        "finetune",
        "evaluate",
        "report",
        "export",
        "verify",
        "card",
        "sign",
        "predict",
        "bench",
        "serve",
        "load",
        "deploy triton",
        "deploy kserve",
        "deploy docker",
        "deploy systemd",
        "registry write",
        "registry check",
    )
    for command in commands:
        done = zoo(*command.split(), "--help")
        assert done.returncode == 0
        assert "--json" in done.stdout
