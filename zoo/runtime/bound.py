"""Calls whose tensors stay on the device: nothing is copied between calls and the program around them (IO binding)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}


def bind(session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], list[ort.OrtValue]]:
    """A call of a session on inputs that lie on its device from now on; what it gives stays there."""
    device = _DEVICES.get(session.get_providers()[0], "cpu")
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)

    def call() -> list[ort.OrtValue]:
        session.run_with_iobinding(binding)
        found: list[ort.OrtValue] = binding.get_outputs()
        return found

    return call
