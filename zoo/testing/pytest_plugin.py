"""`pytest --zoo-contract`: a test for every backbone and head that installed plugins bring.

Zoo's own plugins are left out, which its own tests check; `--zoo-plugin NAME`, also several times, names others.
Nothing is imported before the option is given: every pytest of an environment that has Zoo loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo.plugins import Plugin
    from zoo.testing import Finding


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the contract."""
    group = parser.getgroup("zoo")
    group.addoption("--zoo-contract", action="store_true", help="check that Zoo plugins do what their specs say")
    group.addoption(
        "--zoo-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="check this plugin (default: all but Zoo's own)",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds the tests of the contract to those that pytest found itself."""
    if config.getoption("--zoo-contract"):
        items.extend(
            ContractItem.from_parent(session, name=f"{plugin.name}::{name}", check=check)
            for plugin in _chosen(config.getoption("--zoo-plugin"))
            for name, check in _checks(plugin)
        )


class ContractError(Exception):
    """A plugin does not do what its specs say."""


class ContractItem(pytest.Item):
    """One check of the contract as a test."""

    def __init__(self, *, check: Callable[[], list[Finding]], **rest: Any) -> None:
        super().__init__(**rest)
        self._check = check

    def runtest(self) -> None:
        """Fails with every line of the spec that lies."""
        findings = self._check()
        if findings:
            raise ContractError("\n".join(finding.message for finding in findings))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The lines, without the traceback into Zoo."""
        if isinstance(excinfo.value, ContractError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """What the test is called."""
        return self.path, None, f"zoo contract: {self.name}"


def _chosen(names: list[str]) -> Iterator[Plugin]:
    from zoo.plugins import load_plugins

    plugins = {plugin.name: plugin for plugin in load_plugins()}
    unknown = [name for name in names if name not in plugins]
    if unknown:
        raise pytest.UsageError(f"--zoo-plugin {unknown[0]}: not installed; there are {', '.join(plugins)}")
    found = [plugins[name] for name in names] or [p for p in plugins.values() if p.distribution != "zoo"]
    if not found:
        raise pytest.UsageError("--zoo-contract: no plugin but Zoo's own is installed; install yours, or --zoo-plugin")
    yield from found


def _checks(plugin: Plugin) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    from functools import partial

    from zoo.catalogue.weights import weights_path
    from zoo.testing import check_backbone, check_head, check_plugin, check_weights

    yield "module", partial(check_plugin, plugin)
    for backbone in plugin.backbones:
        yield f"{backbone.name} (backbone)", partial(check_backbone, backbone, deep=True)
        for weights in backbone.weights:
            if weights.url.startswith("package:"):  # others may have to be fetched first
                path = weights_path(weights, Path())
                yield f"{backbone.name}@{weights.tag} (weights)", partial(check_weights, backbone, weights, path)
    for head in plugin.heads:
        yield f"{head.name} (head)", partial(check_head, head)
