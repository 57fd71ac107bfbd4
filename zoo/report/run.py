"""From the records of a finished run to its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from zoo.artifacts.files import write_bytes
from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.errors import RunError
from zoo.metrics import reliability_bins
from zoo.report import charts
from zoo.report.held_out import read_held_out
from zoo.report.mistakes import confident_mistakes
from zoo.report.page import check_page_target, render
from zoo.report.parts import network_parts
from zoo.report.reproduce import after_command_line, command_line, fuse_command_line, gate_command_line
from zoo.report.transfer import read_transfer

_PAIRS = 10
_WAYS = {
    "single": "the best backbone alone",
    "joint": "one linear head on the features of all",
    "average": "the mean of their probabilities",
    "stack": "a linear head on what each of them says",
}


def report(run_path: Path, out: Path | None = None) -> dict[str, Any]:
    """Writes the report of a finished run to `out` (`report.html` in the run folder) and gives its main numbers.

    All of it is read from the records; no model is run, and of the images only the mistakes shown are opened. Raises
    RunError for a run that is unfinished or damaged, UsageError where `out` is not a report's.
    """
    run = RunFolder.open_complete(run_path)
    out = out or run.path / "report.html"
    check_page_target(out)
    try:
        facts, numbers = _facts(run)
        template = f"{facts['result']['strategy']}.html" if run.members else "training.html"
        if run.members:
            facts["members"] = _members(run, facts["result"])
        if template == "gate.html":
            _add_gate(run, facts)
        elif template == "fuse.html":
            _add_fusion(run, facts)
        elif template == "after.html":
            facts["command"] = after_command_line(run.read("request")["request"])
        else:
            _add_training(run, facts, numbers)
        page = render(template, facts)
    except (KeyError, TypeError, UndefinedError) as error:
        raise RunError(f"records of {run_path} do not fit: {error!r}; start the run again") from None
    write_bytes(out, page.encode())
    return {"report": str(out), **numbers}


def _facts(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every page shows, and its main numbers."""
    result, dataset = run.read("result"), run.read("dataset")
    data = DataSet.from_json(dataset)
    held_out = read_held_out(run, data)
    metrics = held_out.metrics
    bins = reliability_bins(held_out.confidence, held_out.predicted == held_out.truth)
    facts = {
        "result": result,
        "environment": {name: value for name, value in run.read("environment").items() if name != "schema"},
        "data": data,
        "fingerprint": dataset["fingerprint"],
        "counts": data.counts(),
        "held_out": held_out,
        "metrics": metrics,
        # Classes without images have no recall; they come last.
        "per_class": sorted(metrics["per_class"].items(), key=lambda row: (row[1]["n"] == 0, row[1]["recall"] or 0)),
        "mistakes": confident_mistakes(held_out, data),
        "pairs": held_out.most_confused(_PAIRS),
        "wrong": int((held_out.predicted != held_out.truth).sum()),
        "charts": {
            "reliability": charts.reliability_diagram(bins, metrics["ece"]),
            "confidence": charts.confidence_counts(bins),
            "confusion": charts.confusion_heat_map(held_out),
        },
    }
    numbers = {
        "split": held_out.split,
        **{name: metrics[name] for name in ("accuracy", "interval95", "ece", "ece_by_chance", "n")},
        "strategy": result["strategy"],
        "backbone": result["backbone"],
        "transfer": None,
        "seconds": result["seconds"],
    }
    return facts, numbers


def _add_training(run: RunFolder, facts: dict[str, Any], numbers: dict[str, Any]) -> None:
    """What the page of one trained model shows beside."""
    result, rows, transfer = facts["result"], run.read_metrics(), read_transfer(run)
    request = run.read("request")["request"]
    numbers["transfer"] = transfer.to_json() if transfer else None
    facts |= {
        "request": request,
        "model": run.read_model(),
        "plan": result["plan"],
        "comparison": numbers["transfer"],
        "parts": network_parts(result["plan"], run.weights),
        "command": command_line(request),
        "joined": run.read_decisions().get("where backbones join"),
    }
    facts["charts"] |= {
        "accuracy": charts.accuracy_curves(rows, result["best_step"]),
        "loss": charts.loss_curves(rows, result["best_step"]),
        "transfer": charts.transfer_curves(transfer) if transfer else None,
    }


def _add_gate(run: RunFolder, facts: dict[str, Any]) -> None:
    """What the page of a gated cascade shows beside."""
    result = facts["result"]
    facts["command"] = gate_command_line(run.read("request")["request"], run.path)
    facts["charts"]["walk"] = charts.gate_walk(result["walk"], result["members"][-1]["val_accuracy"])
    for split in ("val", "test"):
        for number, member in enumerate(facts["members"]):
            exits = result[f"{split}_exits"]
            member[f"{split}_exits"] = exits[number] if exits else None


def _add_fusion(run: RunFolder, facts: dict[str, Any]) -> None:
    """What the page of a fusion shows beside."""
    facts |= {"command": fuse_command_line(run.read("request")["request"]), "ways": _WAYS}


def _members(run: RunFolder, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of a cascade, as measured and as they came to be."""
    return [
        {**measured, "weights": member.read_model().weights, "sha256": member.read("result")["weights_sha256"]}
        for member, measured in zip(run.members, result["members"], strict=True)
    ]
