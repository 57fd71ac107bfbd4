"""`zoo bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import UsageError
from zoo_cli.command import command
from zoo_cli.options import Device
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder, catalogue


def add_to(app: typer.Typer) -> None:
    """Adds the command `bench`."""
    command(app, "bench")(_bench)


def _bench(
    out: Output,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="ONNX files.")],
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8",
    threads: Annotated[str | None, typer.Option(help="Thread counts; by default what the cgroup grants.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled images: measures with these, and puts the accuracy beside.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per measurement, after warming up.")] = 2.0,
    device: Device = "auto",
) -> None:
    """Measure latency and throughput in ONNX Runtime, and which execution provider really ran the nodes."""
    from zoo.bench import bench, some_images

    def accuracy(model: Path) -> dict[str, Any]:
        from zoo.evaluate import evaluate

        assert data is not None
        return evaluate(
            model, data, split="test", catalogue=catalogue(), cache=cache_folder(), progress=out.progress, device=device
        )

    rows = bench(
        models,
        batches=_numbers("--batch", batch),
        threads=_numbers("--threads", threads) if threads else None,
        device=device,
        seconds=seconds,
        progress=out.progress,
        accuracy=accuracy if data else None,
        images=some_images(data, cache=cache_folder(), progress=out.progress) if data else (),
    )

    def words() -> None:
        headers = ["model", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "nodes ran on"]
        cells: list[list[object]] = []
        for row in rows:
            nodes = ", ".join(f"{name.removesuffix('ExecutionProvider')} {n}" for name, n in row["nodes"].items())
            cells.append(
                [row["model"], row["threads"], row["batch"], row["p50_ms"], row["p95_ms"], row["p99_ms"]]
                + [row["images_per_s"], nodes]
                + ([percent(row["accuracy"])] if data else [])
            )
        out.table(headers + (["accuracy"] if data else []), cells)
        for row in rows:
            if row["branches"]:
                parts = ", ".join(f"{name} {taken:.2f} ms" for name, taken in row["branches"].items())
                out.line(f"{row['model']}, {row['threads']} threads, batch {row['batch']}: {parts}")
        if any(row["cascade"] == "gate" for row in rows) and not data:
            out.line("the time of a gated cascade depends on the images; measure with your own: --data DATA")

    out.result({"rows": rows}, words)


def _numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{name}: {text!r}; give whole numbers such as 1,8")
    return numbers
