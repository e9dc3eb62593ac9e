"""The page for people and that of the interface: static files from the package, which ask no other host for anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from vlp.deploy.serving.serving_state import ServingState

FOLDER = Path(__file__).resolve().parent.parent / "page"
FILES = {  # the only ones that are served: no path of a request reaches the disk
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}


def page_routes(state: ServingState) -> APIRouter:
    router = APIRouter()

    def add(path: str, name: str, media_type: str) -> None:
        content = (FOLDER / name).read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

        async def file(request: Request) -> Response:
            headers = {"ETag": tag, "Cache-Control": "no-cache"}
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(content, media_type=media_type, headers=headers)

        router.get(path, include_in_schema=False, name=name)(file)

    for path, (name, media_type) in FILES.items():
        add(path, name, media_type)
    return router
