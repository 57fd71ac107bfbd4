"""Threads the process may really use, and sessions on exactly the device that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.errors import DeviceError, ModelError
from zoo.runtime.cpus import read_cpus, share_cpus
from zoo.runtime.golden import golden_image
from zoo.runtime.session import cuda_devices, open_session
from zoo.runtime.threads import available_threads
from zoo.runtime.trace import trace


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_threads_follow_the_cgroup(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert available_threads(tmp_path) == expected


def test_session_uses_those_threads(model: Path) -> None:
    assert open_session(model, device="cpu").get_session_options().intra_op_num_threads == available_threads()
    assert open_session(model, device="cpu", threads=1).get_session_options().intra_op_num_threads == 1


def test_processors_are_shared_by_neighbours() -> None:
    assert read_cpus("0-3, 8", "--cpus") == (0, 1, 2, 3, 8)
    assert share_cpus((0, 1, 2, 3, 8), 2) == [(0, 1), (2, 3, 8)]
    assert share_cpus((4,), 1) == [(4,)]


@pytest.mark.gpu
def test_cuda_devices_have_numbers(model: Path) -> None:
    assert (
        open_session(model, device="cuda", device_id=0).get_provider_options()["CUDAExecutionProvider"]["device_id"]
        == "0"
    )
    with pytest.raises(DeviceError, match=f"device not there: 'cuda:{cuda_devices()}'"):
        open_session(model, device="cuda", device_id=cuda_devices())


@pytest.mark.skipif(cuda_devices() > 0, reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(model: Path) -> None:
    with pytest.raises(DeviceError, match="device not there: 'cuda'"):
        open_session(model, device="cuda")


def test_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="no such model"):
        open_session(path)
    path.write_bytes(b"not protobuf at all")
    with pytest.raises(ModelError, match="not a model ONNX Runtime can load"):
        open_session(path)


def test_placement_names_the_provider_of_every_node(model: Path) -> None:
    placement = trace(model, [{"image": golden_image(32, 32, 0)[None]}], device="cpu").nodes
    assert set(placement) == {"CPUExecutionProvider"}
    assert placement["CPUExecutionProvider"] > 10
