"""What a model says about one photo: labels, matches, answers, captions, boxes, segments and heat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from vlp.deploy.serving.bodies import read_json_or_form
from vlp.deploy.serving.errors import ApiError, json_response
from vlp.deploy.serving.map_pictures import map_uri
from vlp.deploy.serving.model_names import check_model_name
from vlp.deploy.serving.openapi import described
from vlp.deploy.serving.pictures import read_data_uri
from vlp.deploy.serving.schemas import (
    AnswerFields,
    CaptionFields,
    ClassifyFields,
    DetectFields,
    HeatFields,
    MatchFields,
    PhotoFields,
    SegmentFields,
)
from vlp.deploy.serving.serving_state import ServingState
from vlp.deploy.serving.work import call_with_photo, check_photo, require_verb

Fields = TypeVar("Fields", bound=PhotoFields)
MAP_PIXELS = 16_000_000  # of a photo whose masks or classes are as large as itself


def verb_routes(state: ServingState) -> APIRouter:
    router = APIRouter()

    def add(
        verb: str,
        record: type[Fields],
        summary: str,
        describe: Callable[[Any, bytes, Fields], dict[str, Any]],
        *,
        path: str | None = None,
        pixels: int | None = None,
    ) -> None:
        async def route(request: Request) -> Response:
            fields, image = await read_json_or_form(request, record)
            check_model_name(state, fields.model)
            with state.lease() as model:
                require_verb(model, verb)
                photo = read_photo(fields, image)
                await check_photo(state, photo, "image", pixels=pixels)
                work = partial(describe, model.engine, photo, fields)
                return json_response(await call_with_photo(request, state, model, model.verbs, photo, work))

        path = path or f"/v1/{verb}"
        router.post(path, name=verb, **described(record, summary, form=True))(route)

    add("classify", ClassifyFields, "The probability of each label, the best first", classify)
    add("match", MatchFields, "The probability that each text belongs to the photo", match)
    add("answer", AnswerFields, "Answers to a question about the photo, the best first", answer)
    add("caption", CaptionFields, "A sentence about the photo", caption)
    add("detect", DetectFields, "Boxes of things, in pixels of the upright photo", detect, pixels=MAP_PIXELS)
    add("segment", SegmentFields, "The class of each pixel of the upright photo", segment, pixels=MAP_PIXELS)
    add("ground", HeatFields, "Where in the photo a phrase is", heat, path="/v1/heat")
    return router


def read_photo(fields: PhotoFields, image: bytes | None) -> bytes:
    """Raises ApiError where there is none, or two."""
    if (fields.image is None) == (image is None):
        message = "image: send one photo, as a data URI in JSON or as the file `image` of a form"
        raise ApiError(400, message, code="invalid_field", param="image")
    return image if fields.image is None else read_data_uri(fields.image, "image")  # type: ignore[return-value]


def classify(engine: Any, photo: bytes, fields: ClassifyFields) -> dict[str, Any]:
    (found,) = engine.classify([photo], fields.labels, fields.templates)
    best = sorted(found.items(), key=lambda item: -item[1])
    return {"labels": [{"label": label, "score": float(score)} for label, score in best]}


def match(engine: Any, photo: bytes, fields: MatchFields) -> dict[str, Any]:
    found = engine.match([photo] * len(fields.texts), fields.texts)
    pairs = zip(fields.texts, found, strict=True)
    return {"matches": [{"text": text, "score": float(score)} for text, score in pairs]}


def answer(engine: Any, photo: bytes, fields: AnswerFields) -> dict[str, Any]:
    (found,) = engine.answer([photo], [fields.question], fields.answers or ())
    return {"answers": [{"answer": text, "score": float(score)} for text, score in found]}


def caption(engine: Any, photo: bytes, fields: CaptionFields) -> dict[str, Any]:
    return {"caption": engine.caption([photo])[0]}


def detect(engine: Any, photo: bytes, fields: DetectFields) -> dict[str, Any]:
    (found,) = engine.detect([photo], fields.labels, threshold=fields.threshold)
    things = []
    for thing in found:
        shown = {"label": thing["label"], "score": float(thing["score"]), "box": [float(edge) for edge in thing["box"]]}
        if fields.masks and thing.get("mask") is not None:
            shown["mask"] = map_uri(thing["mask"])
        things.append(shown)
    return {"objects": things}


def segment(engine: Any, photo: bytes, fields: SegmentFields) -> dict[str, Any]:
    (found,) = engine.segment([photo], fields.labels)
    classes = found["classes"]
    shown = {"names": list(found["names"]), "size": list(classes.shape), "classes": map_uri(classes)}
    if found.get("ids") is not None:
        shown |= {"ids": map_uri(found["ids"]), "segments": found["segments"]}
    return shown


def heat(engine: Any, photo: bytes, fields: HeatFields) -> dict[str, Any]:
    (found,) = engine.ground([photo], [fields.phrase], heat=True)
    score, grid = found.get("score"), found.get("heat")
    return {
        "box": None if found.get("box") is None else [float(edge) for edge in found["box"]],
        "score": None if score is None else float(score),
        "heat": None if grid is None else [[float(value) for value in row] for row in grid],
    }
