"""`zoo deploy triton|kserve|docker|systemd`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_cli.command import command
from zoo_cli.render import Output

if TYPE_CHECKING:
    from zoo.deploy.folder import Deployment
    from zoo.deploy.triton import TritonConfig

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; the deployed model has its stem as name.")]
MaxBatch = Annotated[
    int,
    typer.Option(min=0, help="The largest batch that Triton makes; 0: the first axis is no batch axis."),
]
Zoo = Annotated[
    str | None,
    typer.Option(
        "--zoo",
        metavar="WHEEL|REQUIREMENT",
        help="What pip installs Zoo from (default: this version, where it came from a package index).",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the group `deploy`."""
    group = typer.Typer(name="deploy", help="Models for other servers and engines.", no_args_is_help=True)
    command(group, "triton")(_triton)
    command(group, "kserve")(_kserve)
    command(group, "docker")(_docker)
    command(group, "systemd")(_systemd)
    app.add_typer(group)


def _triton(
    out: Output,
    model: Model,
    folder: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The model repository: a folder with one for each model.")
    ],
    max_batch: MaxBatch = 32,
) -> None:
    """Write a model into a repository of NVIDIA's Triton Inference Server, with configuration and labels."""
    from zoo.deploy.triton import deploy_triton

    _say(out, *deploy_triton(model, folder, max_batch=max_batch))


def _kserve(
    out: Output,
    model: Model,
    folder: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    storage_uri: Annotated[
        str, typer.Option(metavar="URI", help="Where you will upload DIR/models to, such as s3://bucket/models.")
    ],
    max_batch: MaxBatch = 32,
) -> None:
    """Write a KServe InferenceService, and the model repository to upload for it."""
    from zoo.deploy.kserve import deploy_kserve

    _say(out, *deploy_kserve(model, folder, storage_uri=storage_uri, max_batch=max_batch))


def _docker(
    out: Output,
    model: Model,
    folder: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The build context to write.")],
    zoo: Zoo = None,
) -> None:
    """Write a Dockerfile with the small runtime and the model: `zoo serve` on the CPU, not as root."""
    from zoo.deploy.docker import deploy_docker

    _say(out, deploy_docker(model, folder, zoo=zoo))


def _systemd(
    out: Output,
    model: Model,
    folder: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    zoo: Zoo = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port; those below 1024 take more rights.")] = 8000,
) -> None:
    """Write a hardened systemd unit that runs `zoo serve` on the CPU, and how to install it."""
    from zoo.deploy.systemd import deploy_systemd

    _say(out, deploy_systemd(model, folder, zoo=zoo, host=host, port=port))


def _say(out: Output, deployment: Deployment, config: TritonConfig | None = None) -> None:
    def words() -> None:
        names = [file.relative_to(deployment.folder).as_posix() for file in deployment.files]
        out.line(f"{deployment.folder}: {', '.join(names)}")
        for tensor in config.inputs if config else ():
            shape = ", ".join(str(size) if size >= 0 else "any" for size in tensor.dims)
            batch = f"up to {config.max_batch} in a batch" if config and config.max_batch else "no batches"
            out.line(f"{tensor.name}: {tensor.data_type.removeprefix('TYPE_')} [{shape}], {batch}")
        out.line(f"next: {deployment.next}")

    out.result({**deployment.to_json(), **(config.to_json() if config else {})}, words)
