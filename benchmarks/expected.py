"""How well `zoo recommend` foretells what training makes of the mistakes of a probe, from results on other data.

    python benchmarks/expected.py --cells benchmarks/grid.jsonl

For each strategy the root mean square error of the logarithm over all cells of the grid, each data set foretold from
the others; with what each backbone was seen to gain elsewhere, and as if the backbones were alike.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from grid import DATA_SETS, WEIGHTS, read, results

from zoo.catalogue.results import Result
from zoo.recommend.prior import REFERENCE, expect

_UNKNOWN = "any/backbone@none"
_LEAST_ERROR = 0.01
"""Lower rates are taken for this one, as where results are learnt from."""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, required=True)
    arguments = parser.parse_args()
    cells = [cell for cell in read(arguments.cells) if cell["seed"] == 0]
    every = results(cells, {name: name for name in WEIGHTS})
    print("| strategy | each backbone by itself | backbones alike |\n|---|---|---|")
    for strategy in ("partial", "lp-ft", "scratch"):
        print(
            f"| {strategy} | {_error(every, strategy, alike=False):.2f} | {_error(every, strategy, alike=True):.2f} |"
        )


def _error(every: list[Result], strategy: str, *, alike: bool) -> float:
    squares = []
    for data in DATA_SETS:
        known = [row for row in every if row.data != data]
        probes = {(row.task, row.backbone): row for row in every if row.strategy == REFERENCE}
        for row in every:
            if (row.data, row.strategy) == (data, strategy):
                seen = math.log(_mistakes(row) / _mistakes(probes[row.task, row.backbone]))
                found = expect(known, strategy, _UNKNOWN if alike else row.backbone, row.per_class)
                squares.append((seen - found.mean) ** 2)
    return math.sqrt(statistics.mean(squares))


def _mistakes(row: Result) -> float:
    return max(1 - row.test_accuracy, _LEAST_ERROR)


if __name__ == "__main__":
    main()
