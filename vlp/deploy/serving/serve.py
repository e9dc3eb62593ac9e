"""From a folder to a server that has ended: everything that can be wrong is checked before the port answers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from vlp.deploy.serving.app import create_app
from vlp.deploy.serving.keys import check_host, read_key
from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.reload import Reloader
from vlp.deploy.serving.served_model import ServedModel
from vlp.deploy.serving.server import LISTED, GracefulServer, server_config
from vlp.deploy.serving.serving_state import ServingState
from vlp.system.errors import UserError

MANIFEST = "manifest.json"
FEW_FILES = 4_096  # descriptors that a thousand connections and an index need


def serve(
    folder: Path,
    *,
    index: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_variable: str = "VLP_KEY",
    name: str | None = None,
    threads: int | None = None,
    limits: ServingLimits | None = None,
) -> int:
    """The exit code, when a signal has ended the server.  Raises UserError or OSError of one sentence before it answers."""
    key = read_key(key_variable)
    os.environ.pop(key_variable, None)  # no child process inherits it
    check_host(host, key, key_variable)

    def load() -> tuple[Any, Any]:
        return open_model(folder, index, threads)

    name = name or os.path.basename(os.path.abspath(folder))  # of a link itself, which stays when it is set anew
    with bind(host, port) as listener:
        engine, photos = load()
        app = create_app(engine, photos, key, name=name, limits=limits)
        raise_file_limit()
        config = server_config(app)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            return runner.run(run_server(config, listener, load, folder / MANIFEST))


def open_model(folder: Path, index: Path | None, threads: int | None) -> tuple[Any, Any]:
    """The engine, read completely, and the index that was made with the same artifact.  Raises UserError and FileNotFoundError."""
    from vlp.deploy.runtime.engine import open_artifact

    engine = open_artifact(folder, threads=threads)
    engine.load()
    if index is None:
        return engine, None
    from vlp.deploy.index.photo_index import open_index

    return engine, open_index(index, engine)


async def run_server(
    config: uvicorn.Config,
    listener: socket.socket,
    load: Callable[[], tuple[Any, Any]],
    manifest: Path,
    *,
    poll_seconds: float = 2.0,
) -> int:
    """Raises what the model raised when it was warmed up."""
    app: Any = config.app
    state: ServingState = app.state.serving

    def load_model() -> ServedModel:
        return ServedModel(*load(), limits=state.limits, metrics=state.metrics)

    reloader = Reloader(state, load_model, manifest)
    server = GracefulServer(config, state, reloader.reload)
    watching = asyncio.create_task(reloader.watch(poll_seconds))
    print(f"http://{address(listener)} answers with {state.name}; stop it with Ctrl-C", flush=True)
    try:
        await server.serve([listener])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    if state.broken is not None:
        raise state.broken
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens already: no other program gets the port while the model is loaded.  Raises UserError."""
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port}: expects a number from 0 to 65535")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(LISTED)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: is no address of this machine ({error.strerror})") from error
    except OSError as error:
        listener.close()
        fix = {
            errno.EADDRINUSE: "another program has this port: end it, or choose another one with --port",
            errno.EACCES: "ports below 1024 are for the administrator: choose another one with --port",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, str(error))
        raise UserError(f"--host {host} --port {port}: {fix}") from error
    return listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_file_limit() -> None:
    """Each connection is a file descriptor, and many systems allow 1,024."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FEW_FILES if hard == resource.RLIM_INFINITY else min(FEW_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
