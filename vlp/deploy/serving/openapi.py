"""What the OpenAPI document says of a route whose body the route reads by itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

ERRORS = {
    400: "a field is wrong",
    401: "the key is wrong",
    404: "the model lacks this verb, or the photo is not there",
    413: "too large",
    429: "the queue is full: try again after Retry-After seconds",
    503: "warming up or shutting down",
    504: "took too long",
}


def described(record: type[BaseModel], summary: str, *, form: bool = False) -> dict[str, Any]:
    """Arguments of a route. The body is checked by `record` and not by the framework, which would parse it more slowly and
    answer mistakes in another form.  form: a file `image` and fields are accepted too."""
    schema = record.model_json_schema()
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if form:
        fields = {**schema["properties"], "image": {"type": "string", "format": "binary"}}
        content["multipart/form-data"] = {"schema": {**schema, "properties": fields}}
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {code: {"description": text} for code, text in ERRORS.items()},
    }
