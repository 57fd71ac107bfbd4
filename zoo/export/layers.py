"""How many layers of a model stay in fp32 where all of it in eight bits would answer too differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from zoo.export.int8 import Activations, Quantiser
from zoo.export.judge import Judge, Variant
from zoo.progress import Task

Assemble = Callable[[Sequence[onnx.ModelProto]], onnx.ModelProto]

_FIRST = (0, 1, 2, 3, 4, 5, 6, 8, 11, 15, 20)
"""So many layers of each part are tried to be left in fp32. What the first ones lose goes through all others, and with
few channels and many positions they gain least. Measured on mobilenet_v2: with five of 52 left, a sixth of the error of
all and 99 % of the labels; with 24 that lose most when quantised alone, 98.4 %."""
_AS_FAST = 0.95
"""So much of the best speed counts as no slower."""


def search_int8(
    parts: Sequence[onnx.ModelProto], assemble: Assemble, judge: Judge, *, folder: Path, task: Task
) -> Variant:
    """The model assembled of `parts` in eight bits, with as few layers in fp32 as it takes to answer as well.

    Its activations have the type that is faster here. As many of the first layers as cost no time are left in fp32, and
    then more and more of those that still make it faster, until it answers as well. What comes back may be refused.
    """
    kinds = [_EightBits(parts, assemble, judge, kind, folder / kind) for kind in ("uint8", "int8")]
    eight, whole = max(((kind, judge.timed(kind.variant(0))) for kind in kinds), key=lambda pair: pair[1].gain)
    timed = [whole]
    for first in [first for first in _FIRST[1:] if first < eight.layers]:
        task.advance(0, f"{first} layers in fp32")
        # Time does not rise evenly: where the layer behind is no convolution, one more in fp32 may be faster again.
        timed.append(judge.timed(eight.variant(first)))
    fast = [variant for variant in timed if variant.refused is None]
    if not fast:
        return max(timed, key=lambda variant: variant.gain)
    enough = _AS_FAST * max(variant.gain for variant in fast)
    free = max(variant.layers_kept for variant in fast if variant.gain >= enough)
    for variant in fast:
        if variant.layers_kept >= free:
            task.advance(0, f"{variant.layers_kept} layers in fp32")
            found = judge.answers(variant)
            if found.refused is None:
                break
    return found


class _EightBits:
    """All parts in eight bits, with one type of activations."""

    def __init__(
        self,
        parts: Sequence[onnx.ModelProto],
        assemble: Assemble,
        judge: Judge,
        activations: Activations,
        folder: Path,
    ) -> None:
        self._assemble = assemble
        self._activations = activations
        self._quantisers = []
        for number, part in enumerate(parts):
            own = folder / str(number)
            own.mkdir(parents=True)
            self._quantisers.append(
                Quantiser(
                    part,
                    judge.evidence.calibration,
                    own,
                    activations=activations,
                    threads=judge.conditions.threads,
                )
            )

    @property
    def layers(self) -> int:
        """How many layers the part with the most of them has."""
        return max(len(quantiser.layers) for quantiser in self._quantisers)

    def variant(self, first: int) -> Variant:
        """The model with so many of the first layers of each part in fp32."""
        return Variant(
            proto=self._assemble([quantiser.quantise(first) for quantiser in self._quantisers]),
            precision="int8",
            activations=self._activations,
            layers_kept=first,
        )
