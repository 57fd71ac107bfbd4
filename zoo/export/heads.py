"""Further runs whose answers a file gives beside those of its first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.artifacts.manifest import EMBEDDING, EXIT, LABEL, OUTPUT, TOP_LABELS, TOP_PROBABILITIES
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue
from zoo.errors import UsageError
from zoo.nn.build import load_run_model
from zoo.nn.model import TransferModel

_TAKEN = (OUTPUT, LABEL, TOP_LABELS, TOP_PROBABILITIES, EMBEDDING, EXIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A finished run, under the name that its outputs get."""

    name: str
    run: RunFolder
    model: TransferModel
    record: ModelRecord


def parse_heads(words: Sequence[str]) -> dict[str, Path]:
    """Runs by the names of their heads, as in `colour=runs/colour`. Raises UsageError for names that outputs cannot
    have."""
    found = dict[str, Path]()
    for word in words:
        name, _, path = word.partition("=")
        if not path:
            raise UsageError(f"head without a run: {word!r}; give NAME=RUN, such as colour=runs/colour")
        if not (name.isascii() and name.isidentifier()):
            raise UsageError(f"name of a head: {name!r}; use letters, digits and '_', no digit first")
        if name in _TAKEN:
            raise UsageError(f"name of a head: {name!r}, which is an output of its own; choose another")
        if name in found:
            raise UsageError(f"two heads named {name!r}; give each its own name")
        found[name] = Path(path)
    return found


def open_heads(paths: Mapping[str, Path], catalogue: Catalogue) -> list[Head]:
    """The runs that become further heads. Raises RunError for an unfinished one, UsageError for a cascade."""
    heads = []
    for name, path in paths.items():
        run = RunFolder.open_complete(path)
        if run.members:
            raise UsageError(f"a cascade cannot be a head: {path}; give a run of one model, export the cascade alone")
        model, record = load_run_model(run, catalogue)
        heads.append(Head(name=name, run=run, model=model, record=record))
    return heads
