"""A recommendation in words for somebody who has not chosen a backbone before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoo.recommend.circumstances import FEW_PER_CLASS, Circumstances, Similarity, Size
from zoo.recommend.prior import REFERENCE, Expectation
from zoo.recommend.profile import Profile
from zoo.recommend.race import Entrant, Heat

_RULE: dict[tuple[Size, Similarity], str] = {
    ("small", "similar"): (
        "the features fit as they are, and training them would learn these few images by heart: keep the backbone "
        "frozen, or train it gently"
    ),
    ("small", "different"): (
        "neither do the last features fit, nor are there images to teach new ones: use the features of lower stages, "
        "which are more general, or train gently"
    ),
    ("large", "similar"): (
        "the features are a good start, and there are images enough to make them better: train on from the head of a "
        "probe"
    ),
    ("large", "different"): (
        "the features are a start only, and there are images enough to teach new ones: train all of it, from the head "
        "of a probe"
    ),
}
_WORTH = 0.01
_NOTHING = 0.0005
"""Not even a tenth of a point."""
_IN_MINUTES = 120
_LIKE = {"similar": "like", "different": "unlike"}


def explain(
    winner: Entrant,
    likeliest: Entrant,
    best: Profile,
    elsewhere: Expectation,
    circumstances: Circumstances,
    heats: Sequence[Heat],
    seconds: float,
) -> list[str]:
    """Sentences: the size of the data and its distance from the source, what was measured, what decided.

    `likeliest` is what should make the fewest mistakes, `best` the profile of the backbone whose features tell most,
    `elsewhere` how its probes compare with those of the other backbones on other data, `seconds` what the training
    takes at most.
    """
    size, similarity = circumstances.size, circumstances.similarity
    return [
        f"{circumstances.per_class:.0f} images per class, {best.classes} classes: a {size} data set (it is small with "
        f"fewer than {FEW_PER_CLASS} per class).",
        f"They are {_LIKE[similarity]} what {best.backbone} was trained on: {_distance(best)}.",
        f"A {size} data set {_LIKE[similarity]} the source: {_RULE[size, similarity]}.",
        f"Its features alone tell {_percent(best.accuracy)} of the images right that a linear head has not seen; five "
        f"nearest neighbours, to which nothing is fitted, {_percent(best.neighbour_accuracy)}.",
        _more(best.slope[1]),
        *_known(best, elsewhere),
        *_decided(winner, likeliest, heats),
        _cost(seconds),
    ]


def _distance(best: Profile) -> str:
    stage = max(range(len(best.tap_accuracies)), key=best.tap_accuracies.__getitem__)
    last = len(best.tap_accuracies) - 1
    where = (
        "no lower stage tells more than its last one"
        if stage == last or best.gap < _NOTHING
        else f"stage {stage} of {last} alone tells {100 * best.gap:.1f} points more than its last one"
    )
    return (
        f"{where}, and its pretrained weights take away {_percent(best.gain, 0)} of the mistakes that random ones make"
    )


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _more(slope: float) -> str:
    """Whether more images would help."""
    last = f"twice as many brought {100 * slope:.1f} points"
    return f"More images would {'still help' if slope > _WORTH else 'change little'}: {last}."


def _known(best: Profile, elsewhere: Expectation) -> list[str]:
    if not elsewhere.data_sets:
        return []
    return [
        f"On {elsewhere.data_sets} other data sets with about as many images probes of {best.backbone} made "
        f"{math.exp(elsewhere.mean):.2f} times the mistakes that those of all backbones compared here made in the mean."
    ]


def _cost(seconds: float) -> str:
    if seconds < 1:
        return "Its training takes less than a second here."
    shown = f"{seconds:.0f} seconds" if seconds < _IN_MINUTES else f"{seconds / 60:.0f} minutes"
    return f"Its training takes about {shown} here, or less."


def _decided(winner: Entrant, likeliest: Entrant, heats: Sequence[Heat]) -> list[str]:
    found = []
    learnt, raced = winner.expectation, any(heat.strategy != REFERENCE for heat in heats)
    if winner.strategy != REFERENCE:
        others = f"on {learnt.data_sets} other data sets with about as many images, and " if learnt.data_sets else ""
        found.append(
            f"By what was seen {others}here, {winner.strategy} should make {math.exp(learnt.mean):.2f} times the "
            "mistakes of a probe."
        )
    if heats:
        shown = ", ".join(
            f"{heat.backbone} {heat.strategy} {_percent(heat.val_accuracy)}"
            + (f" after {_percent(heat.share, 0)} of its steps" if heat.share < 1 else "")
            for heat in heats
        )
        found.append(f"Validation accuracy: {shown}.")
    if heats and not raced:
        found.append(
            f"{len(heats[0].right)} validation images tell less about training than other data sets did: nothing raced."
        )
    if winner.strategy == REFERENCE != likeliest.strategy:
        found.append(
            f"{likeliest.strategy} of {likeliest.backbone} should gain "
            f"{100 * (winner.error - likeliest.error):.1f} points: too little to train for."
        )
    return [
        *found,
        f"So: {winner.strategy} of {winner.backbone}, with an accuracy of about {_percent(1 - winner.error)}.",
    ]
