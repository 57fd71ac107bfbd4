"""Other precisions of a model: kept only where they are measured to be faster here and to answer as well."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from zoo.export.evidence import Evidence
from zoo.export.half import to_half
from zoo.export.judge import Conditions, Judge, Variant
from zoo.export.layers import Assemble, search_int8
from zoo.progress import Progress

Precision = Literal["fp32", "fp16", "int8", "auto"]


def choose_variant(
    wanted: Precision,
    parts: Sequence[onnx.ModelProto],
    assemble: Assemble,
    evidence: Evidence,
    conditions: Conditions,
    progress: Progress,
) -> tuple[Variant, list[Variant]]:
    """The fastest variant in the wanted precision (`auto`: in any) that is worth it, else fp32; and all that was tried.

    `assemble` makes the model of its parts: of one, or of the members of a cascade. Raises DataError where an image
    cannot be read.
    """
    plain, tried = Variant(proto=assemble(parts)), list[Variant]()
    with tempfile.TemporaryDirectory() as folder, progress.task(f"precision {wanted}", 1) as task:
        judge = Judge(plain, evidence, conditions, Path(folder), progress)
        if wanted in ("int8", "auto"):
            tried.append(search_int8(parts, assemble, judge, folder=Path(folder), task=task))
        if wanted in ("fp16", "auto"):
            tried.append(judge(Variant(proto=assemble([to_half(part) for part in parts]), precision="fp16")))
    kept = [variant for variant in tried if variant.refused is None]
    return max(kept, key=lambda variant: variant.gain, default=plain), tried
