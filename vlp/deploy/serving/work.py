"""From checked inputs to embeddings and answers: admitted to a queue first, then decoded, then computed in a batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from jaxtyping import Float, UInt8

from vlp.deploy.serving.batcher import Batcher, Overloaded
from vlp.deploy.serving.errors import ApiError, ClientDisconnected
from vlp.deploy.serving.pictures import check_picture, unreadable
from vlp.deploy.serving.served_model import ServedModel
from vlp.deploy.serving.serving_state import ServingState
from vlp.system.errors import UserError

Result = TypeVar("Result")
LONG_TEXTS = 2_000  # characters in all; above, tokenising would keep the event loop from other requests


async def until_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """The result, or ClientDisconnected as soon as nobody waits for it: then the work is cancelled. What is left of the body is
    read and dropped."""
    future = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnection(request))
    watch.add_done_callback(lambda _: future.cancel())
    try:
        return await future
    except asyncio.CancelledError:
        if watch.done() and not watch.cancelled():
            raise ClientDisconnected from None
        raise
    finally:
        watch.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def require_verb(model: ServedModel, *verbs: str) -> None:
    """Raises ApiError where the model has none of them."""
    if not set(verbs) & set(model.verbs_offered):
        has = ", ".join(model.verbs_offered)
        raise ApiError(404, f"this model cannot {' or '.join(verbs)}; it has: {has}", code="verb_missing")


async def embed_texts(
    request: Request, state: ServingState, model: ServedModel, texts: Sequence[str]
) -> tuple[list[Float[np.ndarray, " e"]], int]:
    """The embeddings, and how many tokens the texts have.  Raises ApiError and Overloaded."""
    require_verb(model, "embed_texts")
    longest = max(map(len, texts))
    if longest > state.limits.characters:
        message = f"a text has {longest} characters, above the limit of {state.limits.characters}"
        raise ApiError(413, message, code="text_too_long")
    with model.texts.admit(len(texts)) as admission:
        if longest * len(texts) > LONG_TEXTS:
            rows = await asyncio.get_running_loop().run_in_executor(state.decoders, model.tokenize, texts)
        else:
            rows = model.tokenize(texts)
        embeds = await until_disconnected(request, admission.submit(rows))
    return embeds, sum(int(mask.sum()) for _, mask in rows)


async def embed_photos(
    request: Request, state: ServingState, model: ServedModel, photos: Sequence[bytes], params: Sequence[str]
) -> list[Float[np.ndarray, " e"]]:
    """params: the name of each photo's field, for errors.  Raises ApiError and Overloaded."""
    require_verb(model, "embed_images")

    async def decode_and_embed() -> list[Float[np.ndarray, " e"]]:
        with model.images.admit(len(photos)) as admission:
            return await admission.submit(await decode_all(state, model, photos, params))

    return await until_disconnected(request, decode_and_embed())


async def decode_all(
    state: ServingState, model: ServedModel, photos: Sequence[bytes], params: Sequence[str]
) -> list[UInt8[np.ndarray, "1 3 h w"]]:
    """Few at a time, so that one request with many photos leaves decoders to the others."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(state.limits.decode_threads)

    async def decode_one(photo: bytes, param: str) -> UInt8[np.ndarray, "1 3 h w"]:
        async with slots:
            return await loop.run_in_executor(state.decoders, partial(_decode, state, model, photo, param))

    if len(photos) == 1:
        return [await decode_one(photos[0], params[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(decode_one(photo, param)) for photo, param in zip(photos, params, strict=True)]
    return [task.result() for task in tasks]


def _decode(state: ServingState, model: ServedModel, photo: bytes, param: str) -> UInt8[np.ndarray, "1 3 h w"]:
    start = time.perf_counter()
    check_picture(photo, state.limits, param)
    try:
        return model.engine.load_pixels([photo])
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes: Pillow's readers raise whatever they stumble upon
        raise unreadable(error, param) from error
    finally:
        state.metrics.decode_seconds.observe(time.perf_counter() - start)


async def check_photo(state: ServingState, photo: bytes, param: str, *, pixels: int | None = None) -> None:
    """See `check_picture`; in a thread, as a hostile header can take long."""
    check = partial(check_picture, photo, state.limits, param, pixels=pixels)
    await asyncio.get_running_loop().run_in_executor(state.decoders, check)


async def call_with_photo(
    request: Request,
    state: ServingState,
    model: ServedModel,
    queue: Batcher[Any, Any],
    photo: bytes,
    function: Callable[[], Result],
) -> Result:
    """As `call`; ApiError where the photo, whose header is right, cannot be decoded."""
    try:
        return await call(request, queue, function)
    except (ApiError, ClientDisconnected, Overloaded, TimeoutError, UserError):
        raise
    except Exception:  # the photo's fault, or ours: only decoding it again says which
        await decode_all(state, model, [photo], ["image"])
        raise


async def call(request: Request, queue: Batcher[Any, Any], function: Callable[[], Result]) -> Result:
    """One call in the thread of `queue`.  Raises what it raises, and Overloaded."""
    with queue.admit(1) as admission:
        (result,) = await until_disconnected(request, admission.submit([function]))
    return result
