"""What many tests share: small data, fake plugins, one trained run, one exported model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.catalogue import Catalogue
from zoo.export.run import export
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.run import Environment, finetune
from zoo.progress import Silent

SHARED = Path(os.environ.get("ZOO_SHARED", Path(__file__).parents[2] / "shared"))
SHAPES = ("bars", "dots", "rings")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache: Path) -> Environment:
    """The installed plugins and the session's cache."""
    return Environment(catalogue=Catalogue.installed(), cache=cache)


def draw(shape: str, seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """A noisy picture of bars, dots or rings, uint8 [H, W, 3]."""
    random = np.random.default_rng([seed, *map(ord, shape)])
    y, x = np.mgrid[: size[0], : size[1]]
    phase = random.uniform(0, 6)
    wave = {
        "bars": np.sin(x / 2 + phase),
        "dots": np.sin(x / 2 + phase) * np.sin(y / 2 + phase),
        "rings": np.sin(np.hypot(x - size[1] / 2, y - size[0] / 2) / 1.5 + phase),
    }[shape]
    grey = 128 + 90 * wave + random.normal(0, 20, size)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def make_folder(root: Path, train: int, test: int) -> Path:
    """A data set folder of `SHAPES` with so many images per class, JPEG and PNG in turn."""
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        for shape in SHAPES:
            folder = root / split / shape
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = "jpg" if number % 2 else "png"
                image = draw(shape, first + number, (40 + number % 3, 48))
                Image.fromarray(image).save(folder / f"{number:03d}.{suffix}")
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 12 training and 8 test images each."""
    return make_folder(tmp_path_factory.mktemp("data") / "shapes", 12, 8)


@pytest.fixture(scope="session")
def run(dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished probe."""
    folder = tmp_path_factory.mktemp("runs") / "probe"
    request = FinetuneRequest(data=str(dataset), backbone="tiny/glyphnet", strategy="probe", device="cpu")
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

    def make(name: str, source: str, *, distribution: str | None = None, module: str | None = None) -> Path:
        distribution = distribution or f"zoo_{name}"
        module = module or distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)
        return site

    return make


@pytest.fixture
def zoo(cache: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
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

    yield call


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and weights; they are not part of the project."""
    if not (SHARED / "weights").is_dir():
        pytest.skip(f"real data sets and weights are not at {SHARED} (set ZOO_SHARED)")
    return SHARED


def real_weights(shared: Path, name: str) -> str:
    """The weights file of a backbone."""
    return str(next((shared / "weights").glob(f"{name}-*.pth")))


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
