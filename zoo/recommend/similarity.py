"""How far a data set is from what a backbone was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """What the embeddings of a backbone's source data were like: few enough numbers to be published with weights."""

    mean: Numbers
    """Of each feature [D]."""
    std: Numbers
    """Of each feature [D]."""

    @classmethod
    def of(cls, embeddings: Numbers) -> SourceStatistics:
        """Those of embeddings [N, D]."""
        return cls(embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SourceStatistics:
        """Those in a row of `sources` of a registry."""
        return cls(np.array(row["mean"]), np.array(row["std"]))

    def distance(self, embeddings: Numbers) -> float:
        """The Frechet distance of embeddings [N, D] from the source, in units of its variance: 0 for the same.

        |m1 - m2|^2 + |s1 - s2|^2, over |s1|^2, of normal distributions with these means and standard deviations whose
        features do not correlate (Dowson and Landau 1982).
        """
        target = SourceStatistics.of(embeddings)
        between = np.square(self.mean - target.mean).sum() + np.square(self.std - target.std).sum()
        return float(between / np.square(self.std).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAnswers:
    """What the source classifier says of images it was never trained for. It is blind to what lies within its
    classes."""

    confidence: float
    """The mean of its largest probabilities (MSP, Hendrycks and Gimpel 2017)."""
    entropy: float
    """The mean entropy of its probabilities, over that of even ones."""
    energy: float
    """The mean of log sum exp of its logits (Liu et al. 2020): larger for what it knows."""

    @classmethod
    def of(cls, logits: Numbers) -> SourceAnswers:
        """Those of logits [N, S]."""
        from scipy.special import log_softmax, logsumexp

        log_p = log_softmax(logits.astype(np.float64), axis=1)
        p = np.exp(log_p)
        return cls(
            confidence=float(p.max(1).mean()),
            entropy=float(-(p * log_p).sum(1).mean() / np.log(logits.shape[1])),
            energy=float(logsumexp(logits.astype(np.float64), axis=1).mean()),
        )
