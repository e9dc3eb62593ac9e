"""Search in one's own photos, by words, by a photo, or by both, and their thumbnails. A photo is named by its id in the index: a
client cannot name a file."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from vlp.deploy.serving.bodies import checked, read_json_or_form
from vlp.deploy.serving.errors import ApiError, json_response
from vlp.deploy.serving.model_names import check_model_name
from vlp.deploy.serving.openapi import ERRORS, described
from vlp.deploy.serving.pictures import read_data_uri
from vlp.deploy.serving.schemas import SearchFields
from vlp.deploy.serving.served_model import ServedModel
from vlp.deploy.serving.serving_state import ServingState
from vlp.deploy.serving.work import call, call_with_photo, check_photo
from vlp.system.errors import UserError

THUMBNAIL = 320  # pixels of the longer side
DIGITS = 18  # of an id: SQLite's integers end there


def search_routes(state: ServingState) -> APIRouter:
    router = APIRouter()
    schema = SearchFields.model_json_schema()["properties"]
    parameters = [
        {"name": name, "in": "query", "schema": field}
        for name, field in schema.items()
        if name not in ("image", "model")
    ]
    responses: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in ERRORS.items()}

    async def answer(request: Request, fields: SearchFields, image: bytes | None) -> Response:
        check_model_name(state, fields.model)
        with state.lease() as model:
            require_index(model)
            photo = _photo(fields, image)
            search = partial(
                model.index.search, fields.q, photo, fields.k, fields.offset,
                weight=fields.weight, folder=fields.folder, since=fields.since, until=fields.until,
            )  # fmt: skip
            if isinstance(photo, bytes):
                await check_photo(state, photo, "image")
                hits = await call_with_photo(request, state, model, model.search, photo, search)
            else:
                hits = await call(request, model.search, search)
        photos = [{**asdict(hit), "thumbnail": f"/v1/photos/{hit.id}/thumbnail"} for hit in hits]
        return json_response({"photos": photos})

    @router.get(
        "/v1/search", summary="Photos that fit words", openapi_extra={"parameters": parameters}, responses=responses
    )
    async def search_by_address(request: Request) -> Response:
        given = request.query_params.multi_items()
        if len({name for name, _ in given}) < len(given):
            raise ApiError(400, "the address names a field twice", code="invalid_field")
        return await answer(request, checked(SearchFields, dict(given)), None)

    @router.post("/v1/search", **described(SearchFields, "Photos that fit words, a photo, or both", form=True))
    async def search(request: Request) -> Response:
        return await answer(request, *await read_json_or_form(request, SearchFields))

    @router.get("/v1/photos/{row}/thumbnail", summary="A small JPEG of a photo of the index", responses=responses)
    async def thumbnail(request: Request) -> Response:
        row = request.path_params["row"]
        if not (row.isascii() and row.isdecimal() and len(row) <= DIGITS):
            raise ApiError(404, "a photo is named by its number, as the search answers it", code="photo_not_found")
        with state.lease() as model:
            require_index(model)
            try:
                jpeg = await call(request, model.thumbnails, partial(model.index.thumbnail, int(row), THUMBNAIL))
            except UserError as error:
                raise ApiError(404, str(error), code="photo_not_found") from error
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return router


def require_index(model: ServedModel) -> None:
    """Raises ApiError."""
    if model.index is None:
        message = "this server has no photos to search: start it with --index FOLDER, which vlp index has written"
        raise ApiError(404, message, code="no_index")


def _photo(fields: SearchFields, image: bytes | None) -> bytes | int | None:
    """What to search for beside words: an upload, a data URI, or a photo of the index."""
    given = [value for value in (fields.image, fields.like, image) if value is not None]
    if len(given) > 1 or (not given and fields.q is None):
        message = "say what to search for: words (q), one photo (image, or like with the id of one of yours), or both"
        raise ApiError(400, message, code="invalid_field")
    if not given or fields.like is not None:
        return fields.like
    photo = image if fields.image is None else read_data_uri(fields.image, "image")
    assert photo is not None
    return photo
