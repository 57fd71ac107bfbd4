"""How much data there is and how far from the source: the two questions of every text on transfer learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.finetune.request import StrategyName
from zoo.recommend.profile import Profile

Size = Literal["small", "large"]
Similarity = Literal["similar", "different"]

FEW_PER_CLASS = 20
"""Fewer training images per class are a small data set: there is little to tune by."""
VERY_FEW_PER_CLASS = 5
_FAR_GAP = 0.02
_LITTLE_GAIN = 0.5


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The quadrant of a data set, for the backbone that suits it best."""

    size: Size
    similarity: Similarity
    per_class: float
    """Training images per class, in the mean."""

    @classmethod
    def of(cls, profile: Profile) -> Circumstances:
        """Those of a data set as `profile` saw it.

        It is different from the source where a lower stage alone tells clearly more than the embedding, or where the
        pretrained weights take away less than half of the mistakes of random ones.
        """
        per_class = profile.images / profile.classes
        far = profile.gap > _FAR_GAP or profile.gain < _LITTLE_GAIN
        return cls("small" if per_class < FEW_PER_CLASS else "large", "different" if far else "similar", per_class)

    @property
    def strategies(self) -> tuple[StrategyName, ...]:
        """What is worth trying beside a probe, the likeliest first."""
        if self.per_class < VERY_FEW_PER_CLASS:
            return ()
        if self.size == "small":
            return ("lp-ft", "partial")
        return ("lp-ft", "partial") if self.similarity == "similar" else ("lp-ft", "full")
