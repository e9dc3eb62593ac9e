"""What every request passes before a route sees it, and what every answer gets: who may ask, how much may be sent, how long it may
take, and the figures. Plain ASGI: it costs microseconds where a middleware class of the framework costs a task for each request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlp.data.images import ImageError
from vlp.deploy.serving.batcher import Overloaded
from vlp.deploy.serving.errors import ApiError, ClientDisconnected
from vlp.deploy.serving.pictures import unreadable
from vlp.deploy.serving.serving_state import ServingState
from vlp.system.errors import UserError

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's code, for the metrics: nobody receives it
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/docs", "/docs.js", "/openapi.json", "/health", "/ready"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "testserver"})
SECURITY_HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Gateway:
    """key: None = anybody on this machine may ask; then the Host must name the loopback, as a foreign page could otherwise reach
    the server under a name of its own (DNS rebinding)."""

    def __init__(self, app: ASGIApp, *, state: ServingState, key: str | None) -> None:
        self.app, self.state = app, state
        self._expected = None if key is None else b"Bearer " + key.encode("ascii")
        self._headers = list(SECURITY_HEADERS.items())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, start, status = self.state, time.perf_counter(), 0
        body = LimitedBody(receive, state)

        async def send_checked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers]
                if state.draining or (not body.complete and status in (408, 413)):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        state.in_flight += 1
        try:
            async with asyncio.timeout(state.limits.seconds) as deadline:
                self._check(scope)
                await self.app(scope, body.receive, send_checked)
        except ClientDisconnected:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            if status:  # half an answer is no answer: the connection is closed by the server
                raise
            await _refusal(error, deadline, state).response()(scope, receive, send_checked)
        finally:
            body.release()
            state.in_flight -= 1
            path = getattr(scope.get("route"), "path", None) or "other"
            state.metrics.answer(path, status or CLIENT_CLOSED_REQUEST, time.perf_counter() - start)
            if status >= 400 and path not in ("/ready", "/health"):
                state.metrics.refused.labels(str(status)).inc()

    def _check(self, scope: Scope) -> None:
        """Raises ApiError."""
        headers, path, state = Headers(scope=scope), scope["path"], self.state
        if self._expected is None:
            _check_origin(headers)
        elif path not in OPEN_PATHS:
            given = headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._expected):
                message = "this server needs its key: send the header Authorization: Bearer KEY"
                raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if path.startswith("/v1/") and state.unready is not None:
            raise ApiError(503, state.unready, code="unavailable", headers={"Retry-After": "1"})
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            raise ApiError(400, f"Content-Length {length[:20]!r} is no number", code="invalid_header")
        if int(length[:19]) > state.limits.body_bytes:
            raise too_large(state)


class LimitedBody:
    """The messages of a request's body, as long as they stay within the limits of this request and of all together."""

    def __init__(self, receive: Receive, state: ServingState) -> None:
        self.complete = False
        self._receive, self._state, self._bytes = receive, state, 0
        self._end = asyncio.get_running_loop().time() + state.limits.body_seconds

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError as error:
            seconds = f"{self._state.limits.body_seconds:g}"
            text = f"the body was not complete after {seconds} s: send it faster, or less of it"
            raise ApiError(408, text, code="slow_request") from error
        if message["type"] == "http.request":
            self.complete = not message.get("more_body", False)
            self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self._bytes += size
        self._state.bodies_bytes += size
        if self._bytes > self._state.limits.body_bytes:
            raise too_large(self._state)
        if self._state.bodies_bytes > self._state.limits.bodies_bytes:
            message = "too many bytes are being received at the moment; try again in 1 s"
            raise ApiError(429, message, code="overloaded", headers={"Retry-After": "1"})

    def release(self) -> None:
        self._state.bodies_bytes -= self._bytes
        self._bytes = 0


def too_large(state: ServingState) -> ApiError:
    message = f"the body is larger than {state.limits.body_bytes} bytes: send smaller photos, or fewer in a request"
    return ApiError(413, message, code="body_too_large")


def _check_origin(headers: Headers) -> None:
    """Raises ApiError for requests that a foreign page in the user's browser has caused, where there is no key to stop them."""
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in LOOPBACK_NAMES:
        message = f"without a key this server answers only under localhost or 127.0.0.1, not under {name[:100]!r}"
        raise ApiError(403, message, code="foreign_host")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ApiError(403, "without a key this server answers no requests of other web pages", code="foreign_page")


def _refusal(error: Exception, deadline: asyncio.Timeout, state: ServingState) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        return ApiError(429, str(error), code="overloaded", headers={"Retry-After": str(error.seconds)})
    if isinstance(error, ExceptionGroup):  # of photos that are decoded side by side
        return _refusal(error.exceptions[0], deadline, state)
    if isinstance(error, ImageError):  # its header is right, and the verb could not decode it
        return unreadable(error, "image")
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="invalid_request")
    if isinstance(error, TimeoutError) and deadline.expired():
        message = f"no answer within {state.limits.seconds:g} s: ask for less in one request, or try again later"
        return ApiError(504, message, code="timeout")
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "this request could not be answered; the server's log says why", code="internal_error")
