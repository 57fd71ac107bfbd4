"""The page at `/`: try a model, and see what is served. Everything it needs comes from here."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from zoo.serving.http import Response
from zoo.serving.metrics import ModelMetrics
from zoo.serving.models import Models, Served

_KINDS = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    # Bars have their width in a style; pictures come from the visitor's own machine.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def pages() -> dict[str, Response]:
    """The files of the page by their paths."""
    folder = files("zoo.serving") / "page"
    found = {f"/page/{name}": _page(folder / name) for name in ("style.css", "page.js")}
    return {"/": _page(folder / "index.html"), **found}


def describe_models(models: Models) -> dict[str, Any]:
    """The answer to `GET /models`: what is served, where it comes from, and how it does."""
    return {"models": [_describe(served, models.metrics(served)) for served in models]}


def _page(file: Any) -> Response:
    return Response(file.read_bytes(), content_type=_KINDS[file.name.rpartition(".")[2]], headers=_HEADERS)


def _describe(served: Served, metrics: ModelMetrics) -> dict[str, Any]:
    model = served.model
    calls = metrics.calls.count
    return {
        "name": model.name,
        "version": model.version,
        "labels": sum(map(len, model.labels.values())) or None,
        "takes_images": model.image_input is not None and bool(model.labels),
        "facts": model.facts,
        "requests": metrics.requests.count,
        "p50_ms": 1e3 * metrics.requests.quantile(0.5),
        "p99_ms": 1e3 * metrics.requests.quantile(0.99),
        "waiting": served.batcher.waiting,
        "rows_per_call": metrics.rows.total / calls if calls else None,
        "agreement": metrics.agreed / metrics.compared_rows if metrics.compared_rows else None,
        "exits": model.exits.to_json(metrics.exits or model.exits.counts) if model.exits is not None else None,
    }
