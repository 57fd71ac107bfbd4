"""How large a network is, and how much work."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, images: Tensor) -> int:
    """Multiply-accumulate operations of a pass over normalised images [N, 3, H, W]; its parameters are frozen."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    network.requires_grad_(False)  # it stumbles over parameters that are given to modules
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops() // 2)


def count_params(modules: Iterable[nn.Module]) -> int:
    """Parameters of some modules together; those they share count once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
