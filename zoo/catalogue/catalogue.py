"""Backbones and heads of the installed plugins, found by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from zoo.catalogue.registry import declared_weights, packaged_registry
from zoo.catalogue.results import Result, read_results
from zoo.errors import PluginError, UsageError, ZooError, did_you_mean
from zoo.plugins import Plugin, load_plugins
from zoo.specs import BackboneSpec, HeadSpec, Needs, WeightsSpec


@dataclass(frozen=True, slots=True)
class BackboneEntry:
    """A backbone and the plugin that brought it."""

    plugin: Plugin
    spec: BackboneSpec

    @property
    def id(self) -> str:
        """`<plugin>/<name>`."""
        return f"{self.plugin.name}/{self.spec.name}"

    @property
    def source(self) -> str:
        """The distribution that brought the plugin, with its version."""
        return self.plugin.source

    def gives(self, needs: Needs) -> bool:
        """Whether the backbone has what a head of such `needs` stands on."""
        layouts = [stage.layout for stage in self.spec.stages]
        return {"embedding": True, "stages": "NTC" not in layouts, "tokens": layouts[-1] == "NTC"}[needs]


@dataclass(frozen=True, slots=True)
class HeadEntry:
    """A head and the plugin that brought it."""

    plugin: Plugin
    spec: HeadSpec

    @property
    def id(self) -> str:
        """`<plugin>/<name>`."""
        return f"{self.plugin.name}/{self.spec.name}"


class Catalogue:
    """The installed plugins, and look-ups that fail with a useful word.

    Registries beside the packaged one add weights to installed backbones, and other addresses to weights of the same
    digest; of several, later ones overrule earlier ones.
    """

    def __init__(self, plugins: Sequence[Plugin], registries: Sequence[dict[str, Any]] = ()) -> None:
        self.plugins = plugins
        self.registries = registries

    @classmethod
    def installed(cls, only: Collection[str] | None = None, registries: Sequence[dict[str, Any]] = ()) -> Catalogue:
        """The catalogue of this environment, narrowed to the plugins in `only`, with registries beside Zoo's own."""
        return cls(load_plugins(only), registries)

    @property
    def recipe(self) -> tuple[set[str], Sequence[dict[str, Any]]]:
        """What `installed` needs to make this catalogue in another process."""
        return {plugin.name for plugin in self.plugins if plugin.status != "blocked"}, self.registries

    @property
    def backbones(self) -> list[BackboneEntry]:
        """Every listed backbone, by plugin, then in the plugin's order."""
        return [self._entry(plugin, spec) for plugin in self.plugins for spec in plugin.backbones]

    @property
    def directory(self) -> dict[str, dict[str, Any]]:
        """The plugins one can install, by name, as registries list them."""
        return {
            plugin["name"]: plugin
            for registry in (packaged_registry(), *self.registries)
            for plugin in registry["plugins"]
        }

    @property
    def latencies(self) -> dict[str, float]:
        """Milliseconds that backbones take for one image, by id, where a registry has measured them."""
        return {
            entry["id"]: entry["latency_ms"]
            for registry in (packaged_registry(), *self.registries)
            for entry in registry["backbones"]
            if "latency_ms" in entry
        }

    @property
    def results(self) -> list[Result]:
        """What trainings came to, where a registry has recorded it."""
        return read_results((packaged_registry(), *self.registries))

    def needs_of(self, task: str) -> set[Needs]:
        """What the installed heads of a task need of a backbone. Raises UsageError where there is no such head."""
        found = {head.spec.needs for head in self.heads if head.spec.task == task}
        if not found:
            tasks = sorted({head.spec.task for head in self.heads})
            hint = did_you_mean(task, tasks) or f"known: {', '.join(tasks) or 'none'}"
            raise UsageError(f"no head for this task is installed: {task!r}; {hint}")
        return found

    def _entry(self, plugin: Plugin, spec: BackboneSpec) -> BackboneEntry:
        """The backbone with what registries know of its weights."""
        entry = BackboneEntry(plugin, spec)
        if entry.id not in self._added_weights:
            return entry
        known = {weights.tag: weights for weights in spec.weights}
        for added in self._added_weights[entry.id]:
            own = known.get(added.tag)
            if own is not None and own.sha256 and (added.sha256 or "")[:8] != own.sha256[:8]:
                given = (added.sha256 or "unknown")[:16]
                raise ZooError(
                    f"registry names another file for {entry.id}@{added.tag}: sha256 {given}, not {own.sha256[:16]}; "
                    "give it a tag of its own"
                )
            known[added.tag] = added
        return replace(entry, spec=replace(spec, weights=tuple(known.values())))

    @cached_property
    def _added_weights(self) -> dict[str, list[WeightsSpec]]:
        added: dict[str, list[WeightsSpec]] = {}
        for registry in self.registries:
            for name, weights in declared_weights(registry).items():
                added.setdefault(name, []).extend(weights)
        return added

    @property
    def heads(self) -> list[HeadEntry]:
        """Every head, by plugin, then in the plugin's order."""
        return [HeadEntry(plugin, spec) for plugin in self.plugins for spec in plugin.heads]

    def find_plugin(self, name: str) -> Plugin:
        """The plugin called `name`, broken or not. Raises UsageError for an unknown one."""
        for plugin in self.plugins:
            if plugin.name == name:
                return plugin
        hint = did_you_mean(name, [plugin.name for plugin in self.plugins])
        raise UsageError(f"unknown plugin: {name!r}; {hint or 'see `zoo plugins list`'}")

    def find_backbone(self, name: str) -> tuple[BackboneEntry, WeightsSpec | None]:
        """The backbone `<plugin>/<name>[@tag]`, and the weights the tag names (None without a tag).

        The plugin may be left out where only one has the name. Raises UsageError for an unknown name or tag,
        PluginError where the plugin that has it is broken.
        """
        bare, _, tag = name.partition("@")
        entry = self._resolve(bare)
        if not tag:
            return entry, None
        weights = entry.spec.find_weights(tag)
        if weights is None:
            tags = [w.tag for w in entry.spec.weights]
            hint = did_you_mean(tag, tags) or f"known: {', '.join(tags) or 'none'}"
            raise UsageError(f"unknown weights of {entry.id}: {tag!r}; {hint}")
        return entry, weights

    def find_head(self, name: str) -> HeadEntry:
        """The head `[<plugin>/]<name>`. Raises UsageError for an unknown name."""
        found = [head for head in self.heads if name in (head.id, head.spec.name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"head of several plugins: {name!r}; give one of {', '.join(h.id for h in found)}")
        hint = did_you_mean(name, [h.spec.name for h in self.heads] + [h.id for h in self.heads])
        raise UsageError(f"unknown head: {name!r}; {hint or 'see `zoo list heads`'}")

    def _resolve(self, bare: str) -> BackboneEntry:
        found = [entry for entry in self.backbones if bare in (entry.id, entry.spec.name)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(entry.id for entry in found)
            raise UsageError(f"backbone of several plugins: {bare!r}; give one of {ids}")
        plugin_name, _, short = bare.partition("/")
        # Asked only by its name: what answers may have to import much.
        plugin = next((plugin for plugin in self.plugins if plugin.name == plugin_name), None)
        if plugin is not None and plugin.status != "ok":
            reason = plugin.error or "it is left out by ZOO_PLUGINS"
            raise PluginError(f"plugin {plugin.name!r} of {bare!r} cannot be used: {reason}")
        spec = _ask(plugin, short) if plugin is not None else None
        if plugin is not None and spec is not None:
            return self._entry(plugin, spec)
        raise UsageError(f"unknown backbone: {bare!r}; {self._hint(bare)}")

    def _hint(self, bare: str) -> str:
        installed = [entry.id for entry in self.backbones]
        registries = (packaged_registry(), *self.registries)
        for known in (known for registry in registries for known in registry["backbones"]):
            if bare in (known["id"], known["id"].partition("/")[2]) and known["id"] not in installed:
                return f"it comes with the distribution {known['distribution']!r}: install that"
        names = installed + [entry.spec.name for entry in self.backbones]
        return did_you_mean(bare, names) or "see `zoo list backbones`"


def _ask(plugin: Plugin, name: str) -> BackboneSpec | None:
    """What the plugin's `zoo_resolve_backbone` says.

    Raises the ZooError that it raises, and PluginError where it fails otherwise or gives something else.
    """
    try:
        spec = plugin.hooks.zoo_resolve_backbone(plugin=plugin.name, name=name)
        if spec is not None and not isinstance(spec, BackboneSpec):
            raise TypeError(f"zoo_resolve_backbone gave {type(spec).__name__}: {spec!r:.80}; must be BackboneSpec")
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {plugin.name!r} ({plugin.source}) failed to resolve {name!r}: {type(error).__name__}: "
            f"{' '.join(str(error).split()):.300}"
        ) from error
    return spec
