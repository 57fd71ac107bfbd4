"""Files of weights, read into modules: strictly, or not at all, never random weights in their place; and written."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.artifacts.files import write_atomically
from zoo.errors import RunError, WeightsError


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch weights file; code in a pickle is never run.

    Raises WeightsError where the file is missing, cut short, holds code, or holds something else than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no such weights file: {path}; check --weights")
    try:
        value: Any = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except pickle.UnpicklingError as error:
        # torch names the global it would not import; every other message is about bytes that make no pickle.
        reason = "it holds code, not only tensors" if "nsupported" in str(error) else "it is damaged"
        raise WeightsError(f"weights refused: {path} ({reason}); convert it to .safetensors") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"damaged weights file: {path} ({reason:.160}); fetch it again") from None
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise WeightsError(f"no state dict in {path}; give a file of named tensors")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes `tensors` (name -> tensor, on any device, in any layout) as one safetensors file, atomically.

    Raises RunError where the disk is full or the folder read-only.
    """
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(copies, temporary, metadata=metadata))
    except (OSError, SafetensorError) as error:  # safetensors wraps the operating system's error in its own
        raise RunError(f"cannot write weights: {path} ({error}); free space, then --resume") from None


def _load_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        # An unusual pickle protocol is either read or refused; the user need not hear of it.
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def load_into(module: nn.Module, path: Path, name: str) -> None:
    """Loads the file strictly into `module`. Raises WeightsError where names, shapes or values do not fit `name`."""
    state = read_state(path)
    expected = module.state_dict()
    # DataParallel saves every name with this prefix.
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or unexpected or wrong:
        parts = [
            f"{len(keys)} {what}, e.g. {keys[0]}"
            for keys, what in ((missing, "missing"), (unexpected, "unknown"), (wrong, "of another shape"))
            if keys
        ]
        raise WeightsError(f"weights of another architecture: {path} is not {name} ({'; '.join(parts)})")
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise WeightsError(f"weights hold NaN or infinity: {path} in {broken[0]}; use another file")
    # Only the batch counters may be absent (files older than they are); they play no part in eval mode.
    module.load_state_dict({**expected, **state})
