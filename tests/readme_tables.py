"""The generated tables of the README: `python tests/readme_tables.py` writes them, a test compares them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from zoo_cli.app import app

from zoo import errors
from zoo.finetune.strategies import STRATEGIES

_ROOT = Path(__file__).parents[1]
README = _ROOT / "README.md"
_CHOICES = _ROOT / "benchmarks" / "choices.jsonl"
_RECOMMENDED = (("digits", 20), ("flowers5", 20), ("aerial_patches5", 100), ("trashnet6", None))
"""Data sets and images per class: one for each quadrant."""


def strategies() -> Iterator[str]:
    """What each strategy does, and its defaults."""
    yield "| strategy | what it does | learning rate (last stage, head) | steps |"
    yield "|---|---|---|---|"
    for strategy in STRATEGIES.values():
        rates = f"{strategy.lr:g}, {strategy.head_lr:g}" if strategy.trains_backbone else "-"
        yield f"| `{strategy.name}` | {strategy.summary} | {rates} | {strategy.steps or '-'} |"


def commands() -> Iterator[str]:
    """Every command with the first line of its help."""
    yield "| command | |"
    yield "|---|---|"
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        leaves = {f"{name} {sub}": leaf for sub, leaf in getattr(command, "commands", {}).items()} or {name: command}
        for words, leaf in leaves.items():
            arguments = [_argument(item) for item in leaf.params if item.param_type_name == "argument"]
            yield f"| `{' '.join(['zoo', words, *arguments])}` | {leaf.help.splitlines()[0]} |"


def _argument(item: Any) -> str:
    text = item.metavar.replace("|", r"\|") + ("..." if item.nargs == -1 else "")
    return text if item.required else f"[{text}]"


def exit_codes() -> Iterator[str]:
    """The exit code of each kind of error."""
    yield "| exit code | meaning |"
    yield "|---|---|"
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ZooError)]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        yield f"| {kind.exit_code} | {(kind.__doc__ or '').splitlines()[0]} |"


def recommendations() -> Iterator[str]:
    """The explanation of one recommendation for each quadrant, in full."""
    choices = {(made["data"], made["shots"]): made for made in map(json.loads, _CHOICES.read_text().splitlines())}
    chosen = [choices[name] for name in _RECOMMENDED]
    assert len({(each["quadrant"]["size"], each["quadrant"]["similarity"]) for each in chosen}) == len(_RECOMMENDED)
    for made in chosen:
        size, similarity = made["quadrant"]["size"], made["quadrant"]["similarity"]
        like = {"similar": "like", "different": "unlike"}[similarity]
        yield "<details>"
        yield f"<summary>A {size} data set {like} the source: {made['data']}, {_images(made['shots'])}</summary>"
        yield ""
        yield from (f"- {sentence}" for sentence in made["why"])
        yield ""
        yield "</details>"
        yield ""


def _images(shots: int | None) -> str:
    return "all of it" if shots is None else f"{shots} images per class"


def with_tables(text: str) -> str:
    """The README with its tables as they should be."""
    tables = (strategies, commands, exit_codes, recommendations)
    for name, table in {each.__name__.replace("_", " "): each for each in tables}.items():
        block = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert block.search(text), name
        body = "\n".join(table())
        text = block.sub(lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
