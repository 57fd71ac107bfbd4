"""What a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from zoo import __version__

_PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "pillow")


def package_versions() -> dict[str, Any]:
    """Versions of Zoo, of Python and of what decides a result, and the system."""
    return {
        "zoo": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        **{name: version(name) for name in _PACKAGES},
    }
