"""Images that are there more than once, as the same bytes or changed a little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.audit.finding import Finding, Severity
from zoo.audit.images import Look, normalised
from zoo.data.dataset import DataSet, Sample

_CLOSE = 0.02
"""Miniatures that correlate by 0.98 or more are of the same image. Measured on flowers: encoded anew at quality 40, or
at half or 1.7 times the size, none of 80 images was below 0.998; brightened, with what overflows cut off, 2 % are."""
_USUAL = 0.2
"""But they must be nearer than a fifth of what is usual between an image and its nearest: digits are all alike."""
_FLAT = 4.0
"""Images of less contrast have nothing to compare."""
_BLOCK = 1024


def find_duplicates(data: DataSet, looks: Sequence[Look]) -> list[Finding]:
    """Groups of images that are the same, each once: across splits, with different labels, or merely twice."""
    same = _by_digest(data.samples)
    exact = {frozenset(each.file for each in group) for group in same}
    groups = [*(("duplicate", group) for group in same), *_near(looks, exact)]
    return [_finding(data, kind, group) for kind, group in groups]


def _by_digest(samples: Iterable[Sample]) -> list[list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.sha256, []).append(sample)
    return [group for group in groups.values() if len(group) > 1]


def _near(looks: Sequence[Look], exact: set[frozenset[str]]) -> list[tuple[str, list[Sample]]]:
    """Images connected by being nearly the same, but for groups that are exactly so."""
    shown = [look for look in looks if look.spread >= _FLAT]
    if len(shown) < 2:
        return []
    miniatures = normalised(shown)
    nearest = _nearest(miniatures)
    limit = 1 - min(_CLOSE, _USUAL * float(np.median(1 - nearest)))
    leader = list(range(len(shown)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for first, second in _pairs(miniatures, np.flatnonzero(nearest >= limit), limit):
        leader[find(second)] = find(first)
    groups: dict[int, list[Sample]] = {}
    for number, look in enumerate(shown):
        groups.setdefault(find(number), []).append(look.sample)
    several = [group for group in groups.values() if len(group) > 1]
    return [("near duplicate", group) for group in several if frozenset(each.file for each in group) not in exact]


def _nearest(miniatures: NDArray[np.float32]) -> NDArray[np.float32]:
    """The correlation [N] of each with the one most like it."""
    found = np.empty(len(miniatures), np.float32)
    for start in range(0, len(miniatures), _BLOCK):
        block = miniatures[start : start + _BLOCK] @ miniatures.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -1
        found[start : start + _BLOCK] = block.max(1)
    return found


def _pairs(miniatures: NDArray[np.float32], rows: NDArray[np.intp], limit: float) -> Iterable[tuple[int, int]]:
    """Pairs of `rows` that correlate by `limit` or more."""
    some = miniatures[rows]
    for start in range(0, len(rows), _BLOCK):
        for first, second in np.argwhere(some[start : start + _BLOCK] @ some.T >= limit):
            if start + first < second:
                yield int(rows[start + first]), int(rows[second])


def _finding(data: DataSet, kind: str, group: Sequence[Sample]) -> Finding:
    severity: Severity
    labels = {data.classes[each.label] for each in group}
    splits = {each.split for each in group}
    same = "the same file" if kind == "duplicate" else "nearly the same image"
    times, severity = f"{same} {len(group)} times", "warning"
    if len(labels) > 1:
        kind, message = "contradiction", f"{times}, as {' and as '.join(sorted(labels))}; keep the right one"
    elif "test" in splits and len(splits) > 1:
        # What is only nearly the same may be another picture of one thing: worth a look, no reason to stop.
        severity = "error" if kind == "duplicate" else "warning"
        kind, message = "leak", f"{times}, in {' and '.join(sorted(splits))}; what is tested was learnt; keep one"
    else:
        message = f"{times}, in {' and '.join(sorted(splits))}; keep one"
    return Finding(kind=kind, severity=severity, files=[each.file for each in group], message=message)
