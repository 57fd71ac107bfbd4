"""The contract of plugins: does a backbone or head do what its spec says?

from zoo.testing import check_backbone
assert check_backbone(spec) == []

`pytest --zoo-contract` does the same for all that is installed, see `zoo.testing.pytest_plugin`.
"""

from zoo.testing.backbone import check_backbone
from zoo.testing.finding import Finding
from zoo.testing.head import check_head
from zoo.testing.plugin import check_plugin
from zoo.testing.weights import check_weights

__all__ = ["Finding", "check_backbone", "check_head", "check_plugin", "check_weights"]
