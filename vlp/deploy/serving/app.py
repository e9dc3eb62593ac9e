"""`create_app`: an ordinary FastAPI app over an engine, without global state, to be served by `vlp serve` or mounted elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from vlp.deploy.serving.errors import ApiError
from vlp.deploy.serving.gateway import Gateway
from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.metrics import ServingMetrics
from vlp.deploy.serving.routes.embeddings import embedding_routes
from vlp.deploy.serving.routes.health import health_routes
from vlp.deploy.serving.routes.page import page_routes
from vlp.deploy.serving.routes.search import search_routes
from vlp.deploy.serving.routes.verbs import verb_routes
from vlp.deploy.serving.served_model import ServedModel
from vlp.deploy.serving.serving_state import ServingState

DESCRIPTION = (
    "Embeddings, labels, captions, answers, boxes and search. Photos are sent as data URIs in JSON, or as the file `image` of a "
    "form. Errors have the form of OpenAI's."
)


def create_app(
    engine: Any,
    index: Any = None,
    key: str | None = None,
    *,
    name: str = "vlp",
    limits: ServingLimits | None = None,
    warm: bool = False,
) -> FastAPI:
    """engine: of `vlp.deploy.runtime.engine.open_artifact`.  index: of `vlp.deploy.index`, made with the same artifact.
    key: that requests must bring as `Authorization: Bearer KEY`; None = only requests to the loopback's names are answered.
    name: of the model in answers.  warm: the engine has been called before; False = the app's lifespan warms it up, and /v1 answers
    503 until then.  `app.state.serving` is the app's ServingState."""
    limits, metrics = limits or ServingLimits(), ServingMetrics()
    model = ServedModel(engine, index, limits=limits, metrics=metrics)
    state = ServingState(model, name=name, limits=limits, metrics=metrics)
    state.ready = warm

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(warm_up(state))
        yield
        await warming
        state.close()

    app = FastAPI(
        title="vlp", description=DESCRIPTION, version="1", lifespan=lifespan, docs_url=None, redoc_url=None
    )  # their pages load scripts from a foreign host; /docs is ours
    app.state.serving = state
    app.add_middleware(Gateway, state=state, key=key)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    for routes in (embedding_routes, verb_routes, search_routes, health_routes, page_routes):
        app.include_router(routes(state))
    return app


async def warm_up(state: ServingState) -> None:
    """In a thread: /health answers meanwhile."""
    try:
        if not state.ready:
            await asyncio.get_running_loop().run_in_executor(state.decoders, state.model.warm_up)
            state.ready = True
    except Exception as error:  # what runs the app ends it
        state.broken = error


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, (HTTPException, StarletteHTTPException))
    code = {404: "path_not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; /docs lists what there is"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()
