"""Whether the process lives, whether it takes work, which model answers, and the figures."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from vlp.deploy.serving.errors import json_response
from vlp.deploy.serving.model_names import pinned_name
from vlp.deploy.serving.serving_state import ServingState


def health_routes(state: ServingState) -> APIRouter:
    router = APIRouter()

    @router.get("/health", summary="The process answers")
    async def health() -> Response:
        return json_response({"status": "ok"})

    @router.get("/ready", summary="The model is warm and takes work; 503 before, and while shutting down")
    async def ready() -> Response:
        if state.unready is not None:
            return json_response({"status": "unavailable", "reason": state.unready}, status=503)
        return json_response({"status": "ready"})

    @router.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models", summary="The model, what it can do, and the limits")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_describe(state)]})

    return router


def _describe(state: ServingState) -> dict[str, object]:
    model, limits = state.model, state.limits
    manifest = model.engine.manifest
    classifier = getattr(manifest, "classifier", None)
    detection, segmentation = getattr(manifest, "detection", None), getattr(manifest, "segmentation", None)
    return {
        "id": state.name,
        "object": "model",
        "created": 0,
        "owned_by": "vlp",
        "pinned": pinned_name(state),
        "fingerprint": model.engine.fingerprint,
        "family": manifest.family,
        "precision": manifest.precision,
        "width": model.engine.width,
        "verbs": list(model.verbs_offered),
        "classes": None if classifier is None else list(classifier.names),
        "open_vocabulary": {
            "detect": detection is not None and detection.names == "texts",
            "segment": segmentation is not None and segmentation.names == "texts",
        },
        "photos": None if model.index is None else model.index.count,
        "limits": {"items": limits.items, "body_bytes": limits.body_bytes, "pixels": limits.pixels},
    }
