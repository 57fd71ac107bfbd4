"""Every kind of bad input gets one line that names it, its own exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import make_folder

from zoo.runtime.session import cuda_devices

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small data set of one's own to spoil."""
    return make_folder(tmp_path / "data", 4, 1)


def _refused(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def _finetune(zoo: Zoo, data: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return zoo("finetune", data, "--backbone", "tiny/glyphnet", "--strategy", "probe", "--out", "run", *more)


def _spoil_empty(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def _spoil_one_class(data: Path) -> None:
    for split in ("train", "test"):
        for name in ("dots", "rings"):
            shutil.rmtree(data / split / name)


def _spoil_one_image(data: Path) -> None:
    shutil.rmtree(data / "test")
    for number in (1, 2, 3):
        next((data / "train" / "dots").glob(f"00{number}.*")).unlink()


def _spoil_text(data: Path) -> None:
    (data / "train" / "dots" / "001.jpg").write_text("hello")


def _spoil_truncated(data: Path) -> None:
    path = data / "train" / "dots" / "001.jpg"
    path.write_bytes(path.read_bytes()[:400])


def _spoil_bomb(data: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeezer = zlib.compressobj(9)
    pixels = b"".join(squeezer.compress(bytes(1 + 20_000 * 3)) for _ in range(20_000)) + squeezer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    (data / "train" / "dots" / "000.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_spoil_empty, ("no images in", "expected train/<class>")),
        (_spoil_one_class, ("one class only: 'bars'",)),
        (_spoil_one_image, ("class with one image: 'dots'",)),
        (_spoil_text, ("not an image:", "001.jpg")),
        (_spoil_truncated, ("cannot read image:", "001.jpg", "truncated")),
        (_spoil_bomb, ("image too large:", "000.png")),
    ],
)
def test_data(spoil: Callable[[Path], None], words: tuple[str, ...], data: Path, zoo: Zoo, tmp_path: Path) -> None:
    spoil(data)
    _refused(_finetune(zoo, data), 3, *words)
    assert not (tmp_path / "run").exists()


def test_weights(data: Path, zoo: Zoo, tmp_path: Path) -> None:
    import torch
    import zoo_tiny
    from safetensors.torch import load_file, save_file

    honest = Path(zoo_tiny.__file__).parent / "weights" / "glyphs_v1.safetensors"
    other, short, code = tmp_path / "other.safetensors", tmp_path / "short.safetensors", tmp_path / "code.pth"
    state = load_file(honest)
    save_file({f"x.{name}": tensor for name, tensor in state.items()}, other)
    short.write_bytes(honest.read_bytes()[:100_000])

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({**state, "code": Code()}, code)
    _refused(_finetune(zoo, data, "--weights", other), 4, "weights of another architecture", "tiny/glyphnet")
    _refused(_finetune(zoo, data, "--weights", short), 4, "damaged weights file", str(short))
    _refused(_finetune(zoo, data, "--weights", code), 4, "weights refused", "it holds code")
    _refused(_finetune(zoo, data, "--weights", "glyphs_v2"), 4, "did you mean 'glyphs_v1'?")
    _refused(_finetune(zoo, data, "--weights", "none.pth"), 4, "no such weights file: none.pth")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


def test_names_and_devices(data: Path, zoo: Zoo) -> None:
    done = zoo("finetune", data, "--backbone", "torchvision/resnet81")
    _refused(done, 2, "unknown backbone: 'torchvision/resnet81'; did you mean", "torchvision/resnet18")
    _refused(zoo("finetune", "builtin:digit", "--backbone", "tiny/glyphnet"), 2, "did you mean 'digits'?")
    _refused(zoo("finetune", data), 2, "--backbone is missing")
    _refused(zoo("finetune", data, "--backbone", "tiny/glyphnet", "--layer-decay", 0), 2, "--layer-decay: 0.0; must be")
    if not cuda_devices():
        _refused(_finetune(zoo, data, "--device", "cuda"), 6, "device not there: 'cuda'", "use --device cpu")


def test_output_folders(data: Path, zoo: Zoo, tmp_path: Path) -> None:
    theirs = tmp_path / "run"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    _refused(_finetune(zoo, data), 7, "output folder already in use: run; give another --out")
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]
    file = tmp_path / "file"
    file.write_text("mine")
    _refused(zoo("finetune", "--resume", "--out", theirs), 7, "not a run folder")
    wrong = zoo("finetune", data, "--resume", "--out", theirs, "--epochs", 5, "--no-mirror", "--dry-run")
    _refused(wrong, 2, f"what {theirs} began with; leave out data, --epochs, --mirror, --dry-run")
    _refused(
        zoo("finetune", data, "--backbone", "tiny/glyphnet", "--strategy", "probe", "--out", file / "run"),
        7,
        "output folder cannot be written",
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_folder(data: Path, zoo: Zoo, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = zoo("finetune", data, "--backbone", "tiny/glyphnet", "--strategy", "probe", "--out", locked / "run")
    _refused(done, 7, "output folder cannot be written", "give another --out")


def test_models(data: Path, tensor_model: Path, model: Path, zoo: Zoo, tmp_path: Path) -> None:
    fake, image = tmp_path / "model.onnx", next((data / "test").rglob("*.png"))
    fake.write_text("not a model")
    for command in (("predict", fake, image), ("evaluate", fake, data), ("bench", fake), ("serve", fake, "--port", 0)):
        _refused(zoo(*command), 8, "not a model ONNX Runtime can load", str(fake))
    _refused(zoo("predict", tensor_model, image), 8, "model has no Zoo manifest (labels, preprocessing)")
    _refused(zoo("evaluate", tensor_model, data), 8, "model has no Zoo manifest (labels, preprocessing)")
    assert zoo("bench", tensor_model, "--seconds", "0.1").returncode == 0
    text = tmp_path / "note.jpg"
    text.write_text("hello")
    _refused(zoo("predict", model, text), 3, "not an image", str(text))
    _refused(zoo("predict", model, tmp_path / "none.jpg"), 3, "no such file")


def test_the_same_words_as_json(data: Path, zoo: Zoo) -> None:
    _spoil_text(data)
    plain, as_json = _finetune(zoo, data), _finetune(zoo, data, "--json")
    value = json.loads(as_json.stdout)
    assert value == {"error": plain.stderr.strip().removeprefix("error: "), "exit_code": 3}
    assert as_json.stderr == ""
    wrong = zoo("finetune", data, "--strateggy", "probe", "--json")
    assert json.loads(wrong.stdout)["exit_code"] == wrong.returncode == 2
    assert "Traceback" in _finetune(zoo, data, "--verbose").stderr


def test_a_full_disk_keeps_what_was_there(model: Path, run: Path, tmp_path: Path) -> None:
    """Written under a limit on file size, as a full disk would stop it."""
    target = tmp_path / "model.onnx"
    shutil.copy(model, target)
    before = target.read_bytes()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        f"from zoo_cli.app import main; sys.argv = ['zoo', 'export', {str(run)!r}, '-o', {str(target)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    # Exporting may take long enough to report how far it is.
    last = done.stderr.splitlines()[-1]
    assert last == "error: File too large; make room or check permissions, then run it again"
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
