"""How several models answer as one: a gate asks one after the other, a fusion all of them, and in a chain one hears
what others say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue
from zoo.errors import RunError, WeightsError
from zoo.nn.build import load_run_model
from zoo.nn.model import TransferModel
from zoo.nn.weights import read_state

Probabilities = NDArray[np.floating[Any]]
EdgeType = Literal["probabilities"]
"""What goes along an edge of a chain: the answer of a classifier.

Boxes of a detector and masks of a segmenter are to become types of their own. A type says what its source gives and
where its target takes it in (probabilities: into its logits; a box: a crop of its image; a mask: one more channel of
it), so it needs a name here, what it holds in `Edge`, its arithmetic in `After.combine`, its nodes in
`zoo.export.stitch.succeeding` and a check in `load_cascade`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """All members look at every image."""

    average: bool
    """Whether the answer is the mean of their probabilities. Otherwise their logits are summed: each member's head is
    its part of one linear head that sees the features of all."""

    def combine(self, logits: Sequence[Probabilities]) -> tuple[Probabilities, None]:
        """Probabilities [N, C] by the logits [N, C] of every member."""
        found = np.stack(logits)
        return (softmax(found, 2).mean(0) if self.average else softmax(found.sum(0), 1)), None

    def to_json(self) -> dict[str, Any]:
        """The record of it, `cascade.json`."""
        return {"kind": "fuse", "average": self.average}


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

    def combine(self, logits: Sequence[Probabilities]) -> tuple[Probabilities, NDArray[np.int64]]:
        """Answers [N, C] and exits [N] by the logits [N, C] of every member."""
        return self.follow(softmax(np.stack(logits), 2))

    def follow(self, probabilities: Probabilities) -> tuple[Probabilities, NDArray[np.int64]]:
        """Answers [N, C] and exits [N] by what every member says of every image, [K, N, C]."""
        answers = self.answers(probabilities)
        exits = self.exits(answers)
        return answers[exits, np.arange(len(exits))], exits

    def to_json(self) -> dict[str, Any]:
        """The record of it, `cascade.json`."""
        return {"kind": "gate", "threshold": self.threshold, "average": self.average}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edge:
    """The answer of one member as an input of the head of a later one."""

    source: int
    target: int
    type: EdgeType
    weight: NDArray[np.float32]
    """[C, G]: what a centred log-probability of each of G classes of the source adds to each of C logits."""

    @property
    def name(self) -> str:
        """That of its matrix among those of a chain."""
        return f"{self.source}-{self.target}"

    @property
    def matrix(self) -> NDArray[np.float32]:
        """What takes logits [N, G], transposed [G, C]. They differ from centred log-probabilities by one number for
        each image, which rows [C, G] without a mean do not see."""
        centred: NDArray[np.float32] = self.weight - self.weight.mean(1, keepdims=True)
        return centred.T

    def to_json(self) -> dict[str, Any]:
        """The edge without its matrix."""
        return {"from": self.source, "to": self.target, "type": self.type}


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """All members look at every image, each may hear what those before it say, and the last one answers.

    Members may have classes of their own: a genus before a species.
    """

    edges: tuple[Edge, ...]
    """By their targets, in order. None where the last member does better without what others say."""

    def combine(self, logits: Sequence[Probabilities]) -> tuple[Probabilities, None]:
        """Probabilities [N, C] of the last member by the logits [N, ...] of every member, each on its own classes."""
        heard = list(logits)
        for edge in self.edges:
            heard[edge.target] = heard[edge.target] + heard[edge.source] @ edge.matrix
        return softmax(heard[-1], 1), None

    def to_json(self) -> dict[str, Any]:
        """The record of it, `cascade.json`; the matrices are in a file beside it."""
        return {"kind": "after", "edges": [edge.to_json() for edge in self.edges]}


Cascade = Gate | Fusion | After


def load_members(run: RunFolder, catalogue: Catalogue) -> list[tuple[TransferModel, ModelRecord]]:
    """The trained models of a finished run, in eval mode: its own one, or those of a cascade in order."""
    return [load_run_model(member, catalogue) for member in run.members or [run]]


def load_cascade(run: RunFolder) -> Cascade | None:
    """How the members of a cascade answer together; None where the run is one model.

    Raises RunError where the record does not fit: of a chain also for a type of edge that is not known, a circle, or a
    matrix that is missing or of another shape.
    """
    if not run.members:
        return None
    record = run.read("cascade")
    try:
        if record["kind"] == "fuse":
            return Fusion(average=bool(record["average"]))
        if record["kind"] == "after":
            return _load_after(run, record["edges"])
        return Gate(threshold=float(record["threshold"]), average=bool(record["average"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"cascade.json of {run.path} does not fit: {error!r}; make the cascade again") from None


def _load_after(run: RunFolder, edges: Sequence[Mapping[str, Any]]) -> After:
    classes = [len(member.read_model().classes) for member in run.members]
    ends = [(int(edge["from"]), int(edge["to"])) for edge in edges]
    _check_edges(run.path, ends, [edge["type"] for edge in edges], len(classes))
    try:
        weights = read_state(run.edges) if ends else {}
    except WeightsError as error:
        raise RunError(f"edges of {run.path} cannot be read: {error}; make the cascade again") from None
    found = []
    for source, target in sorted(ends, key=lambda pair: (pair[1], pair[0])):
        name, expected = f"{source}-{target}", (classes[target], classes[source])
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != expected:
            raise RunError(
                f"edges of {run.path} do not fit: the matrix {name} is {shape or 'missing'}, expected {expected}; make "
                "the cascade again"
            )
        found.append(Edge(source=source, target=target, type="probabilities", weight=weights[name].float().numpy()))
    return After(edges=tuple(found))


def _check_edges(path: Path, ends: Sequence[tuple[int, int]], types: Sequence[str], members: int) -> None:
    """Raises RunError for edges (source, target) that no chain of so many members can have."""
    for kind in types:
        if kind not in get_args(EdgeType):
            raise RunError(
                f"unknown type of edge: {kind!r} in cascade.json of {path}; known: {', '.join(get_args(EdgeType))}; "
                "update Zoo"
            )
    if len(set(ends)) < len(ends) or not all(0 <= end < members for pair in ends for end in pair):
        raise RunError(f"cascade.json of {path} does not fit {members} members: edges {ends}; make the cascade again")
    try:
        TopologicalSorter({target: [s for s, t in ends if t == target] for _, target in ends}).prepare()
    except CycleError as error:
        circle = " -> ".join(map(str, error.args[1]))
        raise RunError(f"circular chain: {circle} in cascade.json of {path}; make the cascade again") from None
    for source, target in ends:
        if target < source:
            raise RunError(
                f"edge to an earlier member: {source} -> {target} in cascade.json of {path}; make the cascade again"
            )
