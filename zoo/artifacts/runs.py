"""A run folder: what was asked, on which data, what came out. `result.json` comes last and means complete."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.files import folder_once, read_json, sha256_json, write_atomically, write_bytes, write_json
from zoo.errors import RunError
from zoo.specs import ImageInput

SCHEMA = 1
_MARKER = ".zoo-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """Everything needed to build a run's network again and to say where its weights come from."""

    backbone: str
    """`<plugin>/<name>`."""
    distribution: str
    """The distribution that brought the plugin, with version."""
    weights: str
    """Tag of the pretrained set, `file:<name>`, or `none`."""
    weights_sha256: str | None
    weights_license: str | None
    pretrained_on: str | None
    input: ImageInput
    head: str
    """`<plugin>/<name>`."""
    head_options: Mapping[str, Any]
    classes: tuple[str, ...]
    drop_stages: int = 0
    """Stages taken off the end of the backbone."""
    taps: tuple[int, ...] = ()
    """Stages whose mean activations the head sees beside the embedding."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelRecord:
        """The record in `value`, as `dataclasses.asdict` and JSON left it."""
        lists = {name: tuple(value[name]) for name in ("classes", "taps") if name in value}
        return cls(**{**value, **lists, "input": ImageInput.from_json(value["input"])})


class RunFolder:
    """One run on disk. `create` makes it, `open` finds it; nothing else writes its records.

    A cascade is a run that holds the runs it was made of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "weights.safetensors"
        self.edges = path / "edges.safetensors"
        self.checkpoint = path / "checkpoint"
        self.scratch = path / "scratch"
        self._metrics = path / "metrics.jsonl"
        self._predictions = path / "predictions.npz"

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises RunError where `path` holds something and is not an empty folder."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"output folder already in use: {path}; give another --out"
                + (", or --resume to go on with that run" if (path / _MARKER).exists() else "")
            )

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new, empty run folder. Raises RunError as `check_free` does, and where it cannot be made."""
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / _MARKER).write_text(f"{SCHEMA}\n", encoding="utf-8")
        except OSError as error:
            raise RunError(f"output folder cannot be written: {path} ({error.strerror}); give another --out") from None
        run = cls(path)
        run.checkpoint.mkdir()
        return run

    @classmethod
    def create_whole(cls, path: Path, fill: Callable[[RunFolder], None]) -> RunFolder:
        """A run that is there once `fill` is through with it, and not before. Raises RunError as `create` does."""
        cls.check_free(path)
        try:
            if path.exists():
                path.rmdir()
            return cls(folder_once(path, lambda unfinished: fill(cls.create(unfinished))))
        except OSError as error:
            raise RunError(f"output folder cannot be written: {path} ({error.strerror}); give another --out") from None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in `path`, complete or not. Raises RunError where there is none."""
        if not (path / _MARKER).is_file():
            raise RunError(f"not a run folder: {path}; give a folder that `zoo finetune` made")
        schema = (path / _MARKER).read_text(encoding="utf-8").strip()
        if not schema.isdigit() or int(schema) > SCHEMA:
            raise RunError(f"run of a newer Zoo: {path} (schema {schema}, known {SCHEMA}); update Zoo")
        return cls(path)

    @classmethod
    def open_complete(cls, path: Path) -> RunFolder:
        """The finished run in `path`. Raises RunError where it has not finished."""
        run = cls.open(path)
        if not run.is_complete:
            raise RunError(
                f"run is not complete: {path}; finish it with `zoo finetune --resume --out {shlex.quote(str(path))}`"
            )
        return run

    @property
    def is_complete(self) -> bool:
        """Whether the run finished: its result is there."""
        return (self.path / "result.json").is_file()

    @property
    def digest(self) -> str:
        """A sha256 of what was asked, of the data, and of what came out, with the digest of the weights."""
        return sha256_json({name: self.read(name) for name in ("request", "dataset", "result")})

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes the record `name` (`request`, `dataset`, `environment`, `result`) atomically."""
        try:
            write_json(self.path / f"{name}.json", {"schema": SCHEMA, **value})
        except OSError as error:
            raise RunError(f"cannot write {name}.json into {self.path}: {error.strerror}; free space") from None

    def read(self, name: str) -> dict[str, Any]:
        """The record `name`. Raises RunError where it is missing or damaged."""
        path = self.path / f"{name}.json"
        try:
            value = read_json(path)
        except FileNotFoundError:
            raise RunError(
                f"run has no {name}.json: {self.path}; it was cut off before it began; delete it and start again"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}; restore it or start the run again") from None
        if not isinstance(value, dict):
            raise RunError(f"not a record: {path}; restore it or start the run again")
        return value

    def write_model(self, request: Mapping[str, Any], model: ModelRecord) -> None:
        """Writes `request.json`: what the user asked and the model it resolved to."""
        self.write("request", {"request": request, "model": asdict(model)})

    def read_model(self) -> ModelRecord:
        """The model this run trains. Raises RunError where the record does not fit."""
        try:
            return ModelRecord.from_json(self.read("request")["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"request.json of {self.path} does not fit: {error}; start the run again") from None

    def decide(self, name: str, make: Callable[[], Any]) -> Any:
        """The decision `name`, a JSON value: made the first time and then kept in `decisions.json`.

        For what is chosen by measuring: a resumed run goes on with what it began with.
        """
        made = self.read_decisions()
        if name in made:
            return made[name]
        value = make()
        # Read again: `make` may have come to decisions of its own.
        self.write("decisions", {"decisions": {**self.read_decisions(), name: value}})
        return value

    def read_decisions(self) -> dict[str, Any]:
        """All decisions made so far, by name."""
        return dict(self.read("decisions")["decisions"]) if (self.path / "decisions.json").is_file() else {}

    def write_predictions(self, probabilities: Mapping[str, NDArray[np.float32]]) -> None:
        """Writes `predictions.npz`: per split, probabilities [N, C] in the order of its samples in `dataset.json`."""

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **probabilities)  # type: ignore[arg-type]

        write_atomically(self._predictions, save)

    def read_predictions(self) -> dict[str, NDArray[np.float32]]:
        """The splits in `predictions.npz`, as `write_predictions` was given them. Raises RunError where damaged."""
        try:
            with self._predictions.open("rb") as file, np.load(file, allow_pickle=False) as splits:
                return dict(splits)
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise RunError(f"cannot read {self._predictions}: {error}; start the run again") from None

    @property
    def members(self) -> list[RunFolder]:
        """The runs that a cascade was made of, in order; none where this run is one model."""
        folder = self.path / "members"
        return [RunFolder(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def add_member(self, other: RunFolder) -> RunFolder:
        """Copies the records of the finished run `other` into this cascade, and gives the copy, without weights."""
        copy = RunFolder.create(self.path / "members" / f"{len(self.members):02d}")
        for name in ("request", "dataset", "environment", "result"):
            copy.write(name, other.read(name))
        return copy

    def take_over(self, other: RunFolder) -> None:
        """Copies what training left in the finished run `other`: weights, predictions and metrics."""
        try:
            for source, target in (
                (other.weights, self.weights),
                (other._predictions, self._predictions),
                (other._metrics, self._metrics),
            ):
                write_atomically(target, partial(shutil.copyfile, source))
        except OSError as error:
            raise RunError(f"cannot copy {other.path} into {self.path}: {error.strerror}; free space") from None

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Adds one line to `metrics.jsonl`; numbers that JSON does not know (inf, nan) become null."""
        known = {
            key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()
        }
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known, allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`; a line cut off by a crash is left out."""
        if not self._metrics.exists():
            return []
        rows = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def truncate_metrics(self, step: int) -> None:
        """Keeps only the lines up to optimiser step `step`: what came later is done again after a resume."""
        kept = [row for row in self.read_metrics() if row.get("step", 0) <= step]
        write_bytes(self._metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())


def all_known(values: Sequence[str | None]) -> str | None:
    """The different ones that are known, in order: licences, say, of models that become one."""
    return " and ".join(dict.fromkeys(value for value in values if value)) or None
