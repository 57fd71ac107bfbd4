"""Plugins found through entry points, each tried alone before it is admitted.

One broken plugin must never take the others down, so nothing here raises for a plugin's sake: what went wrong is
kept in `Plugin.error`. `PluginManager.load_setuptools_entrypoints` dies at the first bad plugin, skips a second
distribution under one name without a word, and accepts a misspelt hook; hence the private manager per plugin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, Literal, TypeVar

import pluggy

from zoo import __version__, hookspecs
from zoo.specs import BackboneSpec, HeadSpec, check_name

GROUP = "zoo"
_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("zoo_"))

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What became of one plugin name: admitted with its backbones and heads, or why not."""

    name: str
    distribution: str
    version: str
    module: str
    status: Literal["ok", "broken", "blocked"]
    error: str | None = None
    summary: str = ""
    """The first line of its module's docstring."""
    backbones: Sequence[BackboneSpec] = ()
    heads: Sequence[HeadSpec] = ()
    hooks: Any = None
    """The plugin's own hook relay, for the hooks that are called later."""

    @property
    def source(self) -> str:
        """Distribution and version, as in `zoo_typo 1.0`."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def resolves(self) -> bool:
        """Whether it has backbones that it does not list, and gives by name."""
        return self.status == "ok" and bool(self.hooks.zoo_resolve_backbone.get_hookimpls())

    @property
    def follows_runs(self) -> bool:
        """Whether it is told what happens in runs, as a tracker is."""
        return self.status == "ok" and bool(self.hooks.zoo_run_event.get_hookimpls())


def load_plugins(only: Collection[str] | None = None) -> list[Plugin]:
    """Every plugin of the environment, sorted by name, broken ones included.

    `only` narrows to those names; the rest are `blocked`, and their code is never run.
    """
    claims: dict[str, dict[tuple[str, str], EntryPoint]] = defaultdict(dict)
    for point in entry_points(group=GROUP):
        # One distribution may be seen twice (its folder twice on sys.path): that is no clash.
        claims[point.name][_source(point)] = point
    return [_load(name, list(claims[name].values()), only) for name in sorted(claims)]


def _load(name: str, points: list[EntryPoint], only: Collection[str] | None) -> Plugin:
    distribution, version = _source(points[0])
    facts: dict[str, Any] = {"name": name, "distribution": distribution, "version": version}
    facts["module"] = points[0].value
    if only is not None and name not in only:
        return Plugin(**facts, status="blocked")
    if len(points) > 1:
        sources = ", ".join(sorted(" ".join(_source(point)) for point in points))
        error = f"plugin name {name!r} is claimed by {sources}; uninstall all but one"
        return Plugin(**facts, status="broken", error=error)
    if twice := _versions_in_one_place(distribution):
        error = (
            f"two versions of {distribution} are installed in one place: {', '.join(twice)}; `pip uninstall "
            f"{distribution}` until none is left, then install it again"
        )
        return Plugin(**facts, status="broken", error=error)
    try:
        check_name(name, "plugin")
        module = points[0].load()
        hooks = _try_alone(name, module)
        backbones = _collect(hooks.zoo_backbones(), BackboneSpec, "zoo_backbones")
        heads = _collect(hooks.zoo_heads(), HeadSpec, "zoo_heads")
    # SystemExit too: a module that calls sys.exit() on import must not end the command that looks at it.
    except (Exception, SystemExit) as error:
        return Plugin(**facts, status="broken", error=_one_line(error) + _asks_for_another_zoo(points[0]))
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return Plugin(**facts, status="ok", summary=summary, backbones=backbones, heads=heads, hooks=hooks)


def _try_alone(name: str, module: Any) -> Any:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=name)
    implemented = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
    for name in implemented:
        if name not in _HOOKS:
            near = get_close_matches(name, _HOOKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_HOOKS)}"
            raise LookupError(f"unknown hook {name!r}; {hint}")
    if not implemented:
        raise LookupError(f"no hook in {module.__name__}; mark functions with @zoo.hookspecs.hookimpl")
    return manager.hook


def _collect(answers: Iterable[Any], kind: type[T], hook: str) -> list[T]:
    found: list[T] = []
    for answer in answers:
        if not isinstance(answer, Iterable):
            raise TypeError(f"{hook} gave {type(answer).__name__}: {answer!r:.80}; return a list of {kind.__name__}")
        for item in answer:
            if not isinstance(item, kind):
                raise TypeError(f"{hook} gave {type(item).__name__}: {item!r:.80}; must be {kind.__name__}")
            found.append(item)
    names = [item.name for item in found]  # type: ignore[attr-defined]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{hook} gave one name twice: {', '.join(twice)}; every name once")
    return found


def _versions_in_one_place(distribution: str) -> list[str]:
    """The versions of a distribution where several lie in one folder: which of them the code is of, nobody knows."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in distributions(name=distribution):
        found[str(each.locate_file(""))].add(each.version)
    return next((sorted(versions) for versions in found.values() if len(versions) > 1), [])


def _asks_for_another_zoo(point: EntryPoint) -> str:
    """What to add to the error of a plugin that asks for another version of Zoo than this."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in (point.dist.requires if point.dist else None) or ():
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        if needed.name == "zoo" and not needed.specifier.contains(__version__, prereleases=True):
            return f" (it is for zoo{needed.specifier}, and this is {__version__}: install another version of either)"
    return ""


def _source(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
