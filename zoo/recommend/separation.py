"""How well features tell classes apart, in the ways the literature measures it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

NEIGHBOURS = 5
_NCTI_WIDTH = 64
_NCTI_LEADING = 32


def neighbour_accuracy(features: Features, labels: Labels) -> float:
    """The share of samples whose class most of their five nearest others have, by the cosine of centred features
    [N, D]; of classes with as many, the nearer one.

    Nothing is fitted: what it says cannot be overfitted.
    """
    centred = features - features.mean(0, dtype=np.float64)
    unit = (centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    close = unit @ unit.T
    np.fill_diagonal(close, -np.inf)
    count = min(NEIGHBOURS, len(labels) - 1)
    nearest = np.argsort(-close, axis=1)[:, :count]
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    for place in range(count):
        # Less than one vote in all decides between equals.
        votes[np.arange(len(labels)), labels[nearest[:, place]]] += 1 + (count - place) * 1e-3
    return float((votes.argmax(1) == labels).mean())


def h_score(features: Features, labels: Labels, *, shrink: bool = True) -> float:
    """tr(S^-1 cov(E[f|y])) of features [N, D]: how much of their variance lies between classes (Bao et al. 2019).

    With `shrink` S is Ledoit and Wolf's estimate, without which the score is of no use for N < D, and the result is
    scaled by what was not shrunk (Ibrahim et al. 2022).
    """
    from sklearn.covariance import ledoit_wolf

    centred = features - features.mean(0, dtype=np.float64)
    present, number = np.unique(labels, return_inverse=True)
    means = np.stack([centred[number == label].mean(0) for label in range(len(present))])
    between = np.cov(means[number], rowvar=False, bias=True)
    if not shrink:
        return float(np.trace(np.linalg.pinv(np.cov(centred, rowvar=False, bias=True), hermitian=True) @ between))
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, between)))


@dataclass(frozen=True, slots=True)
class Collapse:
    """How near features are to neural collapse, in the three parts that NCTI compares candidates by."""

    spread: float
    """The nuclear norm of all features in the space that tells classes apart best: larger is better."""
    fit: float
    """The mean probability of the right class there: larger is better."""
    within: float
    """The logarithm of the summed nuclear norms of each class's probabilities: smaller is better."""


def collapse(features: Features, labels: Labels) -> Collapse:
    """The parts of NCTI (Wang et al. 2023) for features [N, D]: 64 principal components, then Fisher's discriminant
    with a shrinkage of exp(-sum of the 32 leading variances).

    Like the published score it hangs on the scale of the features.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    reduction = PCA(min(_NCTI_WIDTH, *features.shape), random_state=0)
    reduced = reduction.fit_transform(features.astype(np.float64))
    shrinkage = float(np.exp(-reduction.explained_variance_[:_NCTI_LEADING].sum()))
    discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage=max(shrinkage, 1e-10))
    discriminant.fit(reduced, labels)
    said = discriminant.predict_proba(reduced)
    number = np.searchsorted(discriminant.classes_, labels)
    within = sum(np.linalg.norm(said[number == label], "nuc") for label in range(said.shape[1]))
    return Collapse(
        spread=float(np.linalg.norm(discriminant.transform(reduced), "nuc")),
        fit=float(said[np.arange(len(labels)), number].mean()),
        within=float(np.log(within)),
    )


def ncti(candidates: list[Collapse]) -> list[float]:
    """The scores of candidates beside each other: each part between the lowest and the highest of them, added up."""
    parts = np.array([(each.spread, each.fit, -each.within) for each in candidates])
    low, high = parts.min(0), parts.max(0)
    return [float(score) for score in ((parts - low) / np.where(high > low, high - low, 1)).sum(1)]
