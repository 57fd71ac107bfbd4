"""How much data there is and how far from the source: the two questions of every text on transfer learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.finetune.request import StrategyName
from zoo.recommend.profile import Profile

Size = Literal["small", "large"]
Similarity = Literal["similar", "different"]

FEW_PER_CLASS = 50
"""Fewer images per class are a small data set: there is little to train a backbone by."""
VERY_FEW_PER_CLASS = 5
_FAR_GAP = 0.02
_LITTLE_GAIN = 0.5
_ALL_BUT_PERFECT = 0.98
"""Where random weights are that good there is nothing to gain, and nothing to tell the distance by."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The quadrant of a data set, for the backbone that suits it best."""

    size: Size
    similarity: Similarity
    per_class: float
    """Images to train and to validate by, in the mean over classes."""

    @classmethod
    def of(cls, profile: Profile, per_class: float) -> Circumstances:
        """Those of a data set with so many images per class, as `profile` saw it.

        It is different from the source where a lower stage alone tells clearly more than the embedding, or where the
        pretrained weights take away less than half of the mistakes that random ones make.
        """
        little = profile.gain < _LITTLE_GAIN and profile.twin_accuracy < _ALL_BUT_PERFECT
        far = profile.gap > _FAR_GAP or little
        return cls("small" if per_class < FEW_PER_CLASS else "large", "different" if far else "similar", per_class)

    @property
    def strategies(self) -> tuple[StrategyName, ...]:
        """What is worth trying beside a probe, the likeliest first."""
        if self.per_class < VERY_FEW_PER_CLASS:
            return ()
        if (self.size, self.similarity) == ("large", "different"):
            return ("lp-ft",)
        return ("lp-ft", "partial")
