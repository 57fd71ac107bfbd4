"""How several models answer as one: a gate asks one after the other, a fusion all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue
from zoo.errors import RunError
from zoo.nn.build import load_run_model
from zoo.nn.model import TransferModel

Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """All members look at every image."""

    average: bool
    """Whether the answer is the mean of their probabilities. Otherwise their logits are summed: each member's head is
    its part of one linear head that sees the features of all."""

    def combine(self, logits: Probabilities) -> tuple[Probabilities, None]:
        """Probabilities [N, C] of the logits [K, N, C] of K members."""
        return (softmax(logits, 2).mean(0) if self.average else softmax(logits.sum(0), 1)), None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The cheapest member first: an image goes on to the next one only where those before it are not sure (Wang et al.
    2022, "Wisdom of Committees")."""

    threshold: float
    """Confidence from which an answer stands."""
    average: bool
    """Whether an answer is the mean of all members asked so far, or that of the last one alone."""

    def answers(self, probabilities: Probabilities) -> Probabilities:
        """What is answered by [K, N, C] where an image stops at each of K members, whose own words are [K, N, C]."""
        if not self.average:
            return probabilities
        asked = np.arange(1, len(probabilities) + 1, dtype=probabilities.dtype)
        mean: Probabilities = probabilities.cumsum(0) / asked[:, None, None]
        return mean

    def exits(self, answers: Probabilities) -> NDArray[np.int64]:
        """The member [N] at which each image stops, by the answers [K, N, C] it would get: the first that is sure."""
        sure = answers.max(2) >= self.threshold
        sure[-1] = True
        first: NDArray[np.int64] = sure.argmax(0)
        return first

    def combine(self, logits: Probabilities) -> tuple[Probabilities, NDArray[np.int64]]:
        """Answers [N, C] and exits [N] by the logits [K, N, C] of every member."""
        return self.follow(softmax(logits, 2))

    def follow(self, probabilities: Probabilities) -> tuple[Probabilities, NDArray[np.int64]]:
        """Answers [N, C] and exits [N] by what every member says of every image, [K, N, C]."""
        answers = self.answers(probabilities)
        exits = self.exits(answers)
        return answers[exits, np.arange(len(exits))], exits


Cascade = Gate | Fusion


def load_members(run: RunFolder, catalogue: Catalogue) -> list[tuple[TransferModel, ModelRecord]]:
    """The trained models of a finished run, in eval mode: its own one, or those of a cascade in order."""
    return [load_run_model(member, catalogue) for member in run.members or [run]]


def load_cascade(run: RunFolder) -> Cascade | None:
    """How the members of a cascade answer together; None where the run is one model.

    Raises RunError where the record does not fit.
    """
    if not run.members:
        return None
    record = run.read("cascade")
    try:
        if record["kind"] == "fuse":
            return Fusion(average=bool(record["average"]))
        return Gate(threshold=float(record["threshold"]), average=bool(record["average"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"cascade.json of {run.path} does not fit: {error!r}; make the cascade again") from None
