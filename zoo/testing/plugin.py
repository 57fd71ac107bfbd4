"""The contract of plugins as a whole: they load, and they are facts only, nothing heavy, until something is built."""

from __future__ import annotations

import subprocess
import sys

from zoo.plugins import Plugin
from zoo.testing.finding import Finding

_HEAVY = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "sklearn", "matplotlib")
_IMPORT = """
import sys
from zoo.plugins import load_plugins
load_plugins(only=sys.argv[1:2])
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def check_plugin(plugin: Plugin) -> list[Finding]:
    """What is wrong with a plugin before any of its backbones is built; an empty list when all is well.

    Loaded once more, in a process of its own, to see what it imports: every command loads every plugin, so that what
    one imports at its top all of them wait for.
    """
    if plugin.status != "ok":
        return [Finding("status", f"{plugin.module}: {plugin.error or 'left out by ZOO_PLUGINS'}")]
    done = subprocess.run([sys.executable, "-c", _IMPORT, plugin.name, *_HEAVY], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding("load", f"{plugin.module}: loading it ends Python: {last}")]
    heavy = done.stdout.split()
    if heavy:
        return [
            Finding(
                "imports",
                f"{plugin.module}: loading it imports {', '.join(heavy)}, for which every command would wait; import "
                "inside `build` and `split`",
            )
        ]
    return []
