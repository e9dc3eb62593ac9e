"""From a request's body to a checked record: JSON, or the fields and files of a form."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from vlp.deploy.serving.errors import ApiError, ClientDisconnected

Fields = TypeVar("Fields", bound=BaseModel)
MOST_FIELDS = 1_000  # of a form
LARGEST_UPLOAD = 1 << 40  # bytes that stay in memory: the complete body is there already, and within its limit


class InMemoryParser(MultiPartParser):
    """Without temporary files: private photos do not get onto the disk.  complete: the last boundary was read; of a form that is
    cut off, the framework gives what there is."""

    spool_max_size = LARGEST_UPLOAD
    complete = False

    def on_end(self) -> None:
        self.complete = True


async def read_body(request: Request) -> bytes:
    """Raises ApiError (by the gateway's limits) and ClientDisconnected."""
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def read_json(request: Request, record: type[Fields]) -> Fields:
    """Raises ApiError: 415 for what does not say it is JSON, 400 for what is not, or not of these fields."""
    require_content_type(request, "application/json")
    return checked(record, parse_json(await read_body(request)))


async def read_json_or_form(request: Request, record: type[Fields]) -> tuple[Fields, bytes | None]:
    """The fields, and the bytes of the form's file `image`, where there is one."""
    kind = require_content_type(request, "application/json", "multipart/form-data")
    body = await read_body(request)
    if kind == "application/json":
        return checked(record, parse_json(body)), None
    content, image = await _parse_form(request, record, body)
    return checked(record, content), image


def require_content_type(request: Request, *kinds: str) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in kinds:
        message = f"Content-Type is {given[:60]!r}; send {' or '.join(kinds)}"
        raise ApiError(415, message, code="unsupported_media_type")
    return given


def parse_json(body: bytes) -> dict[str, Any]:
    """Raises ApiError, also for NaN, broken UTF-8 and more than 1,024 levels."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return content


def checked(record: type[Fields], content: dict[str, Any]) -> Fields:
    """Raises ApiError, of one sentence about the first wrong field."""
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(str(part) for part in first["loc"])[:100] or None
        if first["type"] == "extra_forbidden":
            known = ", ".join(record.model_fields)
            message = f"there is no field {param!r}; there are {known}"
        else:
            message = f"{param}: {first['msg']}" if param else first["msg"]
        raise ApiError(400, message, code="invalid_field", param=param) from error


async def _parse_form(request: Request, record: type[BaseModel], body: bytes) -> tuple[dict[str, Any], bytes | None]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = InMemoryParser(request.headers, stream(), max_files=1, max_fields=MOST_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise ApiError(400, f"the form is damaged: {error}", code="invalid_form") from error
    if not parser.complete:
        raise ApiError(400, "the form is damaged: its end is missing", code="invalid_form")
    content: dict[str, Any] = {}
    image = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise ApiError(400, f"the form's file is called {name[:60]!r}; call it image", code="invalid_form")
            image = await value.read()
        elif _is_list(record, name):
            content.setdefault(name, []).append(value)
        elif name in content:
            raise ApiError(400, f"{name[:60]}: is given twice", code="invalid_field", param=name[:60])
        else:
            content[name] = value
    await form.close()
    return content, image


def _is_list(record: type[BaseModel], name: str) -> bool:
    field = record.model_fields.get(name)
    return field is not None and "list" in str(field.annotation)
