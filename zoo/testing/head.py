"""The contract of heads."""

from __future__ import annotations

from zoo.specs import HeadSpec
from zoo.testing.finding import Finding

_FEATURES, _CLASSES, _COUNT = 24, 5, 4


def check_head(spec: HeadSpec) -> list[Finding]:
    """Everything that is wrong with a head; an empty list when all is well.

    Nothing is raised for the plugin's sake: what its code raises is a finding.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            head = spec.build(_FEATURES, _CLASSES, spec.options).eval()
            embeddings = torch.randn(_COUNT, _FEATURES)
            logits = head(embeddings)
            if tuple(logits.shape) != (_COUNT, _CLASSES):
                return [Finding("shape", f"build: gives logits {tuple(logits.shape)}, must be {(_COUNT, _CLASSES)}")]
            if not torch.equal(logits, head(embeddings)):
                return [Finding("determinism", "build: two passes in eval mode differ")]
            loss = spec.loss(logits, torch.arange(_COUNT))
            if loss.ndim != 0:
                return [Finding("loss", f"loss: gives shape {tuple(loss.shape)}, must be one number")]
            loss.backward()
        except Exception as error:
            return [Finding("raises", f"build or loss raises {type(error).__name__}: {error}")]
        dead = [name for name, parameter in head.named_parameters() if parameter.grad is None]
        return [Finding("gradients", f"build: no gradient reaches {dead[0]}")] if dead else []
