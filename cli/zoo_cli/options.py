"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where a device answers, else the CPU.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default what the cgroup grants.")]
OnBadSample = Annotated[Literal["fail", "skip"], typer.Option(help="What an unreadable image does.")]
