"""What the server answers, as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from zoo import __version__

_NAME = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "examples": ["FP32", "UINT8", "BYTES"]},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
}
_READY = {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}
_SCHEMAS = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Predictions": {
        "type": "object",
        "required": ["model", "version", "predictions", "milliseconds"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "milliseconds": {"type": "number"},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["label", "probability", "top"],
                    "properties": {
                        "label": {"type": "string"},
                        "probability": {"type": "number"},
                        "heads": {"type": "object", "description": "What further heads of the model say."},
                        "exit": {"type": "string", "description": "Of a cascade: the member that answered."},
                        "top": {"type": "array", "items": {"type": "object"}},
                    },
                },
            },
        },
    },
}


def openapi() -> dict[str, Any]:
    """The description of all routes."""
    paths: dict[str, Any] = {
        "/predict": {
            "post": _operation(
                "Labels of images",
                "Predictions",
                parameters=[
                    _query("model", "string", "Which model; may be left out where one takes images."),
                    _query("top", "integer", "How many labels; 5."),
                ],
                body={
                    "image/*": {"schema": {"type": "string", "format": "binary"}},
                    "multipart/form-data": {
                        "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
                    },
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "image": {"type": "string", "contentEncoding": "base64"},
                                "images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}},
                            },
                        }
                    },
                },
            )
        },
        "/models": {"get": _operation("What is served, with facts and counts")},
        "/metrics": {"get": _operation("Metrics in the text format of Prometheus", media="text/plain")},
        "/v2": {"get": _operation("The server")},
        "/v2/health/live": {"get": _operation("Whether it runs")},
        "/v2/health/ready": {"get": _operation("Whether it answers for all its models", also=("503",))},
        "/v2/models/stats": {"get": _operation("Statistics of all models")},
        "/v2/repository/index": {"post": _operation("What could be served, and what is", body=_READY, needed=False)},
        "/v2/repository/models/{model}/load": {"post": _operation("Reads a model anew", parameters=[_NAME])},
        "/v2/repository/models/{model}/unload": {"post": _operation("Takes a model out", parameters=[_NAME])},
    }
    for prefix, parameters in (
        ("/v2/models/{model}", [_NAME]),
        ("/v2/models/{model}/versions/{version}", [_NAME, _VERSION]),
    ):
        for rest, summary in (
            ("", "Inputs and outputs"),
            ("/ready", "Whether it answers"),
            ("/config", "Configuration, as Triton's tools ask for it"),
            ("/stats", "Statistics"),
        ):
            paths[prefix + rest] = {"get": _operation(summary, parameters=parameters)}
        paths[f"{prefix}/infer"] = {
            "post": _operation(
                "Answers to tensors",
                "InferResponse",
                parameters=parameters,
                body={"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
            )
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zoo",
            "version": __version__,
            "description": "ONNX models over the Open Inference Protocol v2.",
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _query(name: str, kind: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind}}


def _operation(
    summary: str,
    schema: str | None = None,
    *,
    parameters: list[Any] | None = None,
    body: dict[str, Any] | None = None,
    media: str = "application/json",
    needed: bool = True,
    also: tuple[str, ...] = (),
) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {}}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": needed, "content": body}} if body else {}),
        "responses": {
            "200": {"description": "Answered.", "content": {media: content}},
            **{status: {"description": "Not ready.", "content": {media: {}}} for status in also},
            "4XX": {"description": "Why not.", **error},
        },
    }
