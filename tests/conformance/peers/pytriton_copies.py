"""Triton, as it is in nvidia-pytriton, with models that give back what they are sent, as `models.py` makes them.

python pytriton_copies.py             # HTTP on 8280, gRPC on 8281
"""

from __future__ import annotations

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_BITS = (8, 16, 32, 64)
KINDS = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in _BITS), "float32", "float64", "bytes")


@batch
def copies(**inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Each input, under the name of its output."""
    return {name.replace("_in", "_out"): array for name, array in inputs.items()}


def main() -> None:
    """Serves until Ctrl-C."""
    config = TritonConfig(
        http_address="127.0.0.1", http_port=8280, grpc_address="127.0.0.1", grpc_port=8281, allow_metrics=False
    )
    with Triton(config=config) as triton:
        for model, kinds in (("kinds", KINDS), ("half", ("float16",))):
            inputs, outputs = (
                [
                    Tensor(name=f"{kind}{end}", dtype=bytes if kind == "bytes" else np.dtype(kind).type, shape=(2,))
                    for kind in kinds
                ]
                for end in ("_in", "_out")
            )
            settings = ModelConfig(max_batch_size=256)
            triton.bind(model_name=model, infer_func=copies, inputs=inputs, outputs=outputs, config=settings)
        triton.serve()


if __name__ == "__main__":
    main()
