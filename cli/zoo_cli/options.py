"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from zoo.errors import UsageError

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where a device answers, else the CPU.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default what the cgroup grants.")]
Strategy = Literal["auto", "probe", "partial", "lp-ft", "gradual", "surgical", "lora", "dora", "full", "scratch"]
OnBadSample = Annotated[Literal["fail", "skip"], typer.Option(help="What an unreadable image does.")]


def whole_numbers(name: str, text: str) -> list[int]:
    """The numbers from 1 that an option lists. Raises UsageError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{name}: {text!r}; give whole numbers such as 1,8")
    return numbers
