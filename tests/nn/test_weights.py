"""Weights are loaded whole and verified, or refused with the reason."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.errors import WeightsError
from zoo.nn.weights import load_into, read_state


def _net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    source, target, path = _net(), _net(), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save_file(source.state_dict(), path)
    load_into(target, path, "net")
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(_net(8).state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"weights of another architecture: .* is not net \(6 of another shape, e\.g\. 0\.w"
    ):
        load_into(_net(), path, "net")
    torch.save({"other": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"6 missing, e\.g\. 0\.weight; 1 unknown, e\.g\. other"):
        load_into(_net(), path, "net")


class _Code:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self._command,)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_never_runs(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "ran"
    state = {**_net().state_dict(), "extra": _Code(f"touch {trace}")}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"weights refused: .* \(it holds code, not only tensors\)"):
        read_state(path)
    path.write_bytes(pickle.dumps(_Code(f"touch {trace}")))
    with pytest.raises(WeightsError, match="weights refused"):
        read_state(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 700])
def test_truncated(suffix: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(_net().state_dict(), path) if suffix == ".pth" else save_file(_net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=str(path)):
        read_state(path)


def test_nan_and_no_tensors_and_no_file(tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", _net().state_dict()
    state["0.weight"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"weights hold NaN or infinity: .* in 0\.weight"):
        load_into(_net(), path, "net")
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no state dict in"):
        read_state(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        read_state(tmp_path / "none.pth")
