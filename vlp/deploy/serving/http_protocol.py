"""uvicorn's HTTP protocol with what it lacks against slow and endless requests: limits until a request is complete.

Its parser collects headers of any length, and a connection that sends nothing stays open for ever. The application's own limits
begin only after the headers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlp.deploy.serving.limits import ServingLimits

MARGIN = 2.0  # seconds after which a slow body's connection is closed, if the application has not answered by then
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 30\r\nconnection: close\r\n\r\nThe request head is too large."
)


class LimitedHttpProtocol(HttpToolsProtocol):
    """limits: set by `with_limits`."""

    limits: ServingLimits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._reading_head = True
        self._too_large = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head_bytes += len(data)
            if self._deadline is None:  # a line end before a further request is no beginning of it
                self._arm(self.limits.head_seconds)
        super().data_received(data)
        if self._reading_head and self._head_bytes > self.limits.head_bytes and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self.transport.write(TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        self._arm(self.limits.head_seconds)  # also of a head that came in one piece with the request before it
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes:  # all of it came in one piece
            self._too_large = True
            raise RuntimeError("the request head is too large")  # the parser stops, and `send_400_response` is called
        self._reading_head, self._head_bytes = False, 0
        self._arm(self.limits.body_seconds + MARGIN)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading_head = True
        self._disarm()
        super().on_message_complete()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def with_limits(limits: ServingLimits) -> type[LimitedHttpProtocol]:
    """uvicorn makes an object of the class for each connection, without arguments of ours."""
    return type("LimitedHttpProtocol", (LimitedHttpProtocol,), {"limits": limits})
