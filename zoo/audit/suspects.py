"""Labels that are probably wrong: what the other images say of an image is not what its label says."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.audit.finding import Finding
from zoo.finetune.sources import Sources
from zoo.nn.calibrate import fit_temperature
from zoo.nn.linear import L2_GRID, standardise, stratified
from zoo.nn.ridge import Spectrum, left_out_scores

MOST = 5_000
"""Images looked at together."""
_UNLIKELY = 0.02
"""A label is suspected where its calibrated probability is less. Measured in benchmarks/README.md."""


def find_suspects(sources: Sources) -> list[Finding]:
    """Training and validation images whose label is unlikely, the least likely first.

    Each is judged by the ridge solution that was fitted without it, on the features of all stages of the backbone, with
    probabilities calibrated on the very labels.
    """
    data, every = sources.data, len(sources.taps)
    samples = [*data.of("train"), *data.of("val")]
    parts = [sources.features(split, taps=every) for split in ("train", "val") if data.of(split)]
    features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    rows = stratified(labels, MOST, sources.request.seed, "images to audit")
    said = _left_out(features[rows, 0].double(), labels[rows], sources.widths(every), len(data.classes))
    given = said[torch.arange(len(rows)), labels[rows]]
    findings = []
    for place in given.argsort().tolist():
        if given[place] >= _UNLIKELY:
            break
        sample, other = samples[int(rows[place])], int(said[place].argmax())
        message = (
            f"labelled {data.classes[sample.label]!r} (probability {given[place]:.1%}), looks like "
            f"{data.classes[other]!r} ({said[place, other]:.0%}); see which it is"
        )
        findings.append(Finding(kind="suspect label", severity="warning", files=[sample.file], message=message))
    return findings


def _left_out(features: Tensor, labels: Tensor, widths: list[int], classes: int) -> Tensor:
    """Calibrated probabilities [N, C] by solutions that have not seen the image."""
    mean, scale = standardise(features, widths)
    scores = left_out_scores(Spectrum.of((features - mean) / scale), labels, classes, features.new_tensor(L2_GRID))
    error = (scores - F.one_hot(labels, classes)).square().mean((1, 2))
    best = scores[int(error.argmin())]
    return (best / fit_temperature(best, labels)).softmax(1)
