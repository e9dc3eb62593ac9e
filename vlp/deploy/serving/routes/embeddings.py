"""POST /v1/embeddings in OpenAI's form, for texts and photos."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from jaxtyping import Float

from vlp.deploy.serving.bodies import read_json
from vlp.deploy.serving.errors import ApiError, json_response
from vlp.deploy.serving.model_names import check_model_name
from vlp.deploy.serving.openapi import described
from vlp.deploy.serving.pictures import read_data_uri
from vlp.deploy.serving.schemas import EmbeddingFields
from vlp.deploy.serving.serving_state import ServingState
from vlp.deploy.serving.work import embed_photos, embed_texts

Vector = Float[np.ndarray, " e"]


def embedding_routes(state: ServingState) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", **described(EmbeddingFields, "Embeddings of texts and photos, of unit length"))
    async def embeddings(request: Request) -> Response:
        fields = await read_json(request, EmbeddingFields)
        check_model_name(state, fields.model)
        inputs = read_inputs(fields, state.limits.items)
        with state.lease() as model:
            width = model.engine.width
            if fields.dimensions is not None and width is not None and fields.dimensions > width:
                message = f"dimensions: expects 1 to {width}, the model's width; got {fields.dimensions}"
                raise ApiError(400, message, code="invalid_field", param="dimensions")
            text_rows = [row for row, value in enumerate(inputs) if isinstance(value, str)]
            photo_rows = [row for row, value in enumerate(inputs) if isinstance(value, bytes)]
            vectors: dict[int, Vector] = {}
            tokens = 0
            if text_rows:
                found, tokens = await embed_texts(request, state, model, [str(inputs[row]) for row in text_rows])
                vectors |= zip(text_rows, found, strict=True)
            if photo_rows:
                photos: list[Any] = [inputs[row] for row in photo_rows]
                params = [f"input.{row}" for row in photo_rows]
                found = await embed_photos(request, state, model, photos, params)
                vectors |= zip(photo_rows, found, strict=True)
        data = [
            {"object": "embedding", "index": row, "embedding": encode(vectors[row], fields)}
            for row in range(len(inputs))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": state.name, "usage": usage})

    return router


def read_inputs(fields: EmbeddingFields, most: int) -> list[str | bytes]:
    """Texts as str, photos as bytes.  most: items of one request.  Raises ApiError."""
    values = fields.input if isinstance(fields.input, list) else [fields.input]
    if not values:
        raise ApiError(400, "input: is an empty list", code="invalid_field", param="input")
    if all(isinstance(value, int) for value in values) or all(_is_token_list(value) for value in values):
        message = (
            "input: token ids are not accepted, as those of another tokenizer would be taken for other words: send texts "
            "(in LangChain: check_embedding_ctx_length=False)"
        )
        raise ApiError(400, message, code="token_ids", param="input")
    if len(values) > most:
        message = f"input: {len(values)} items, above the limit of {most} a request"
        raise ApiError(413, message, code="too_many_items", param="input")
    return [_read_input(value, fields.modality, f"input.{row}") for row, value in enumerate(values)]


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) for token in value)


def _read_input(value: Any, modality: str, param: str) -> str | bytes:
    kind, content = modality, value
    if isinstance(value, dict):
        if len(value) != 1 or not value.keys() <= {"text", "image"}:
            message = f'{param}: an object has one field, {{"text": …}} or {{"image": …}}'
            raise ApiError(400, message, code="invalid_field", param=param)
        ((kind, content),) = value.items()
    if not isinstance(content, str) or not content:
        message = f"{param}: expects {'words' if kind == 'text' else 'a data URI'} that are not empty"
        raise ApiError(400, message, code="invalid_field", param=param)
    return content if kind == "text" else read_data_uri(content, param)


def encode(vector: Vector, fields: EmbeddingFields) -> Any:
    """Cut to the dimensions asked for and again of unit length, as a cosine needs it; base64: of little-endian float32."""
    vector = np.asarray(vector, np.float32)
    if fields.dimensions is not None and fields.dimensions < len(vector):
        vector = vector[: fields.dimensions]
        length = np.linalg.norm(vector)
        if not length > 0:
            message = f"dimensions: the first {fields.dimensions} of an embedding are all 0; ask for more"
            raise ApiError(400, message, code="invalid_field", param="dimensions")
        vector = vector / length
    vector = np.ascontiguousarray(vector)
    return vector if fields.encoding_format == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()
