"""`zoo bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from zoo.errors import DeviceError, UsageError, did_you_mean
from zoo_cli.command import command
from zoo_cli.options import Device, whole_numbers
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder, catalogue

if TYPE_CHECKING:
    from zoo.bench.contender import RunContender
    from zoo.runtime import session


def add_to(app: typer.Typer) -> None:
    """Adds the command `bench`."""
    command(app, "bench")(_bench)


def _bench(
    out: Output,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL|RUN", help="ONNX files; finished runs, in torch.")],
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes (default: 1,8; of --tune 1, for throughput 8).")
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts (default: as tuned, else what the cgroup grants).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled images: measures with these, and puts the accuracy beside.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per measurement, after warming up.")] = 2.0,
    device: Device = "auto",
    provider: Annotated[
        str | None,
        typer.Option(help="Execution providers: cpu, cuda, tensorrt, openvino, coreml, directml, or all that work."),
    ] = None,
    io_binding: Annotated[
        bool, typer.Option("--io-binding", help="Measures models with tensors that stay on the device, too.")
    ] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Measures runs in compiled torch, too.")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Finds faster settings, for this machine.")] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds that --tune takes for each model.")] = 60.0,
    goal: Annotated[
        Literal["latency", "throughput"], typer.Option(help="What --tune makes better: one call, or two at once.")
    ] = "latency",
    html: Annotated[Path | None, typer.Option(help="Writes a page with the table and a plot, too.")] = None,
) -> None:
    """Measure latency, throughput and memory of models and runs, or find faster settings for a model (--tune)."""
    from zoo.runtime.feeds import some_images

    devices = _providers(provider, models) if provider else [device]
    images = some_images(data, cache=cache_folder(), progress=out.progress) if data else ()
    if tune:
        if threads or html or compile_ or io_binding:
            raise UsageError("--tune finds the threads itself; leave out --threads, --html, --compile and --io-binding")
        sizes = whole_numbers("--batch", batch or ("1" if goal == "latency" else "8"))
        if len(sizes) > 1 or len(devices) > 1:
            raise UsageError("--tune: settings are kept for one batch size on one provider; give one --batch")
        _tune(out, models, device=devices[0], batch=sizes[0], goal=goal, budget=budget, images=images)
        return
    from zoo.bench.run import bench
    from zoo.report.bench import bench_page
    from zoo.report.page import GENERATOR, check_target

    if html is not None:
        check_target(html, GENERATOR, "report")  # before the minutes of measuring

    def accuracy(target: Path) -> dict[str, Any]:
        from zoo.evaluate import evaluate

        assert data is not None
        return evaluate(
            target,
            data,
            split="test",
            catalogue=catalogue(),
            cache=cache_folder(),
            progress=out.progress,
            device=device,
        )

    def open_run(run: Path, count: int) -> Sequence[RunContender]:
        return _in_torch(run, count, compiled=compile_)

    result = bench(
        models,
        batches=whole_numbers("--batch", batch or "1,8"),
        threads=whole_numbers("--threads", threads) if threads else None,
        devices=devices,
        seconds=seconds,
        progress=out.progress,
        accuracy=accuracy if data else None,
        images=images,
        open_run=open_run,
        io_binding=io_binding,
    )
    if html is not None:
        bench_page(result, html)
        result["html"] = str(html)
    out.result(result, lambda: _words(out, result, with_data=bool(data)))


def _words(out: Output, result: dict[str, Any], *, with_data: bool) -> None:
    rows = result["rows"]
    headers = ["model", "provider", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "faster", "load ms"]
    headers += ["memory MB", "prepare ms", *(["accuracy (95 %)"] if with_data else [])]
    cells: list[list[object]] = []
    for row in rows:
        provider = row["provider"].removesuffix("ExecutionProvider") + (", bound" if row["io_binding"] else "")
        cells.append([row["model"], provider, row["threads"], row["batch"]])
        cells[-1] += [row[f"p{share}_ms"] for share in (50, 95, 99)]
        cells[-1] += [row["images_per_s"], row["faster"], row["load_ms"], row["memory_mb"], row["preprocess_ms"]]
        if with_data:
            cells[-1].append(f"{percent(row['accuracy'])} ({' to '.join(percent(end) for end in row['interval95'])})")
    out.table(headers, cells)
    for row in rows:
        if row["branches"]:
            parts = ", ".join(f"{name} {taken:.2f} ms" for name, taken in row["branches"].items())
            out.line(f"{row['model']}, {row['threads']} threads, batch {row['batch']}: {parts}")
    if any(row["cascade"] == "gate" for row in rows) and not with_data:
        out.line("the time of a gated cascade depends on the images; measure with your own: --data DATA")
    for warning in result["warnings"]:
        out.line(f"beware: {warning}")
    if "html" in result:
        out.line(f"page: {result['html']}")


def _tune(out: Output, models: Sequence[Path], **wanted: Any) -> None:
    from zoo.bench.tune import tune

    found = [tune(model, progress=out.progress, **wanted) for model in models]

    def words() -> None:
        for row in found:
            best = ", ".join(f"{name} {value}" for name, value in row["best"].items() if value is not None)
            if row["file"]:
                out.line(f"{row['model']}: {row['gain']:.2f} times as fast as the defaults with {best}: {row['file']}")
            else:
                out.line(
                    f"{row['model']}: the defaults stay ({row['tried']} settings tried, none clearly faster; best: "
                    f"{best}, {row['gain']:.2f} times as fast)"
                )

    out.result({"tuned": found}, words)


def _in_torch(run: Path, threads: int, *, compiled: bool) -> list[RunContender]:
    """A finished run as torch answers, and with `compiled` also as compiled torch does."""
    import time

    from zoo.bench.contender import RunContender
    from zoo.export.answering import open_answering

    found = []
    for engine in ("torch eager", *(["torch compiled"] if compiled else [])):
        began = time.perf_counter()
        answering, given = open_answering(run, catalogue(), threads=threads, compiled=engine == "torch compiled")
        contender = RunContender(
            path=run,
            provider=engine,
            threads=threads,
            load_ms=(time.perf_counter() - began) * 1e3,
            height=given.height,
            width=given.width,
            answer=answering,
        )
        found.append(contender)
    return found


def _providers(text: str, models: Sequence[Path]) -> list[session.Provider]:
    """The execution providers in `text`."""
    from zoo.runtime.session import Provider, working_providers

    if text == "all":
        files = [model for model in models if not model.is_dir()]
        if not files:
            raise UsageError("--provider all: there is no model to try them with; give an ONNX file")
        return working_providers(files[0])
    found: list[session.Provider] = []
    for name in text.split(","):
        if name not in get_args(Provider):
            hint = did_you_mean(name, get_args(Provider)) or f"one of {', '.join(get_args(Provider))}, or all"
            raise DeviceError(f"--provider: {name!r}; {hint}")
        found.append(name)  # type: ignore[arg-type]  # just checked
    return found
