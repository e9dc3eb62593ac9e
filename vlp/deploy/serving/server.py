"""uvicorn with our signals: SIGTERM finishes what has been accepted and exits with 0, SIGHUP takes a new artifact in."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from vlp.deploy.serving.http_protocol import with_limits
from vlp.deploy.serving.serving_state import ServingState

logger = logging.getLogger(__name__)

LISTED = 2_048  # connections that the kernel keeps before they are accepted
TURNING_AWAY = 1.0  # seconds in which new requests get 503, before the port is closed
EMPTYING = 0.2  # seconds for what the kernel has accepted, and then for what is on its way


def server_config(app: FastAPI) -> uvicorn.Config:
    """For `vlp serve`, and for whoever runs the app in a process of their own."""
    state: ServingState = app.state.serving
    limits = state.limits
    return uvicorn.Config(
        app,
        http=with_limits(limits),
        ws="none",
        lifespan="on",
        log_level="error",  # a line for each broken request would let anybody fill the disk
        access_log=False,  # the metrics count requests; a line for each costs more than the request
        server_header=False,
        proxy_headers=False,  # nobody's headers decide who a client is
        limit_concurrency=limits.connections,
        backlog=LISTED,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )


class GracefulServer(uvicorn.Server):
    """on_hangup: called for SIGHUP."""

    def __init__(self, config: uvicorn.Config, state: ServingState, on_hangup: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self.state, self.on_hangup = state, on_hangup
        self.listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.listeners = list(sockets or [])
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.state.broken is not None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Of SIGTERM, SIGINT and SIGHUP. uvicorn raises them again at the end, and the exit code would be the signal's."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second SIGINT does not wait for the requests."""
        if self.state.draining:
            self.should_exit = self.force_exit = sig == signal.SIGINT or self.force_exit
            return
        self.state.draining = True
        logger.warning("shutting down: %d requests are finished first", self.state.in_flight)
        self._keep(self._turn_away())

    async def _turn_away(self) -> None:
        """Meanwhile what was accepted is finished, and what comes is answered 503 with `Connection: close`: closed at once,
        connections would be reset under requests that are on their way, and those that the kernel has accepted too."""
        await asyncio.sleep(TURNING_AWAY)
        for listener in self.listeners:
            listener.listen(0)  # the kernel accepts no further ones, and we those that it has
        await asyncio.sleep(EMPTYING)
        for server in self.servers:
            server.close()
        await asyncio.sleep(EMPTYING)  # requests on the last connections arrive
        self.should_exit = True

    def _hang_up(self) -> None:
        self._keep(self.on_hangup())

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
