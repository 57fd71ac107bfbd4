"""What many tests share: small data, fake plugins, one trained run, one exported model."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import make_folder
from safetensors.torch import save_file
from zoo_cli.app import main

from zoo.catalogue import Catalogue
from zoo.export.run import export
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent

# A developer's own tracking server is not where the runs of tests belong.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Nor are a developer's own settings.
os.environ["ZOO_CONFIG"] = os.devnull
os.environ.pop("ZOO_REGISTRY", None)
# Where tests run in the background of a script, Ctrl-C is ignored, by what they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps all but the tests of a GPU on the CPU, whose numbers they compare, and workers of xdist apart."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        # A processor for each: threads of two workers on the same processors wait for each other most of the time.
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[int(worker.removeprefix("gw")) % len(processors)]})


SHARED = Path(os.environ.get("ZOO_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache: Path) -> Environment:
    """The installed plugins and the session's cache."""
    return Environment(catalogue=Catalogue.installed(), cache=cache)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 12 training and 8 test images each."""
    return make_folder(tmp_path_factory.mktemp("data") / "shapes", 12, 8)


@pytest.fixture(scope="session")
def vit_weights(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    """Weights for `timm/test_vit`, a transformer of 0.3 M parameters."""
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    torch.manual_seed(0)
    save_file(environment.catalogue.find_backbone("timm/test_vit")[0].spec.build().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def run(dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished probe."""
    folder = tmp_path_factory.mktemp("runs") / "probe"
    request = FinetuneRequest(data=str(dataset), backbone="tiny/glyphnet", strategy="probe", device="cpu", threads=1)
    finetune(request, folder, environment, Silent())
    return folder


@pytest.fixture(scope="session")
def model(run: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model of `run`."""
    path = tmp_path_factory.mktemp("models") / "shapes.onnx"
    export(run, path, catalogue=environment.catalogue, progress=Silent())
    return path


@pytest.fixture(scope="session")
def tensor_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain ONNX file without our manifest: sum and product of two inputs [N, 3]."""
    import onnx
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        "plain",
        [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in ("a", "b")],
        [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in ("sum", "product")],
    )
    path = tmp_path_factory.mktemp("models") / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a fake distribution that brings one plugin; gives the folder on sys.path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def make(
        name: str,
        source: str,
        *,
        distribution: str | None = None,
        module: str | None = None,
        version: str = "1.0",
        requires: str = "",
    ) -> Path:
        distribution = distribution or f"zoo_{name}"
        module = module or distribution
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)
        return site

    return make


Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def zoo(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Zoo:
    """Runs the command line in this process, in `tmp_path`."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = ["zoo", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setenv("ZOO_CACHE", str(cache))
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return call


@pytest.fixture
def zoo_process(cache: Path, tmp_path: Path) -> Zoo:
    """Runs the installed command line in a process of its own."""

    def call(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zoo_cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "ZOO_CACHE": str(cache), **environ},
            timeout=300,
        )

    return call


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Zoo]:
    """Makes virtual environments that see the packages of this one behind their own, and gives the command line there.

    Words that begin with `-` go to Python, e.g. `-m pytest`. pip has no network.
    """

    def make(**more: str) -> Zoo:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        behind = [sysconfig.get_path("purelib"), *site.getsitepackages()]
        (Path(own) / "behind.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in behind))
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environ |= {"PIP_NO_INDEX": "1", "ZOO_CACHE": str(folder / "cache"), **more}

        def call(*words: object, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
            given = [str(word) for word in words]
            command = [str(python), *(given if given[0].startswith("-") else ["-m", "zoo_cli", *given])]
            return subprocess.run(
                command, capture_output=True, text=True, env=environ, stdin=subprocess.DEVNULL, cwd=cwd
            )

        return call

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and weights; they are not part of the project."""
    if not (SHARED / "weights").is_dir():
        pytest.skip(f"real data sets and weights are not at {SHARED} (set ZOO_SHARED)")
    return SHARED
