"""Eight bits: Zoo's export beside `torch.onnx.export` and ONNX Runtime's `quantize_static` as they come.

    python benchmarks/int8.py runs/flowers runs/trash

Finished runs of `zoo finetune`, whose images are still there. Accuracy and agreement with the labels of fp32 are those
of the test images, which no one has seen; speeds are of one thread, all files in turn, and relative to Zoo's in fp32.
Zoo's files take uint8 images of the network's own size, plain ones take tensors that something else has prepared. Both
are calibrated with the same 100 training images. Finished rows are kept in --cells: a benchmark that was cut off goes
on.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from eight_bits import Subject, export_plain, export_zoo, judge, note, open_plain, quantise_plain, rows_of_all
from reporting import report

from zoo.nn.engine import make_fabric


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each file at each batch size")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    make_fabric("cpu", 1)
    rows = rows_of_all(arguments.runs, partial(_compare, seconds=arguments.seconds), cells=arguments.cells)
    report(rows, arguments.out)


def _compare(subject: Subject, *, seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        zoo = {kind: export_zoo(subject, folder / f"{kind}.onnx", kind) for kind in ("fp32", "int8")}
        plain = {kind: folder / f"plain-{kind}.onnx" for kind in ("fp32", "int8")}
        export_plain(subject, plain["fp32"])
        quantise_plain(plain["fp32"], plain["int8"], subject.calibration)
        found = judge(
            subject,
            zoo={f"Zoo, {kind}": file for kind, file in zoo.items()},
            plain={f"plain, {kind}": open_plain(path) for kind, path in plain.items()},
            seconds=seconds,
        )
    first = found["Zoo, fp32"].timings
    return [
        {
            "run": subject.run.name,
            "backbone": subject.backbone,
            "file": kind,
            "accuracy": float((judged.labels == subject.truth).mean()),
            "agreement": float((judged.labels == found[f"{kind.partition(',')[0]}, fp32"].labels).mean()),
            "faster_1": judged.timings[1].times_as_fast_as(first[1]),
            "faster_8": judged.timings[8].times_as_fast_as(first[8]),
            "note": note(zoo["int8"]) if kind == "Zoo, int8" else "",
        }
        for kind, judged in found.items()
    ]


if __name__ == "__main__":
    main()
