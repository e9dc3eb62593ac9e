"""A Python that has imported vlp and its libraries before it is asked to run anything: `python -m tests.warm_python SOCKET`.

Importing torch, Lightning and wandb takes 5 to 20 seconds, a shortened training 2. `install` writes programs called `python`,
`vlp`, `torchrun`, … that pass arguments, environment, folder and standard streams to this server. It forks for each, and the
fork runs the script or module as `python` would: a process of its own, with its signals, exit code and child processes.

Only the number of threads is the server's, since it is read when torch is imported: one.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

IMPORTED = (
    "torch", "lightning.pytorch", "timm", "transformers", "matplotlib.pyplot", "optuna", "vlp.cli", "vlp.launch.sweep.multirun",
    "vlp.training.run", "vlp.training.evaluate", "vlp.predictor", "vlp.checkpoints.convert", "vlp.doctor.doctor",
)  # fmt: skip
REAL = ("torchrun", "wandb", "pip", "pre-commit")  # programs that are Python files of the environment
# no site-packages and none of the environment's settings: it only passes on
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

arguments, options = sys.argv[1:], []
while arguments and arguments[0] in ("-u", "-I", "-S", "-E", "-s", "-B"):
    options.append(arguments.pop(0))
if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-m", "-c")):
    os.execv({python!r}, [{python!r}, *options, *arguments])  # --version and the like
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
request = {{"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "executable": {executable!r}}}
content = json.dumps(request).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(content).to_bytes(8, "big")], streams)
server.sendall(content)
replies = server.makefile()
process = int(replies.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.kill(process, number))
code = int(replies.readline())
if code < 0:
    if -code != signal.SIGKILL:  # which has no handler
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def install(folder: Path, address: Path, more: dict[str, str] | None = None) -> None:
    """Writes the programs into a folder for PATH.  more: further programs, name → lines of shell."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = Path(sys.executable).parent
    python = folder / "python"
    write_program(python, CLIENT.format(python=sys.executable, socket=str(address), executable=str(python)))
    write_program(folder / "vlp", f'#!/bin/sh\nexec {python} -m vlp.cli "$@"\n')
    for name in REAL:
        if (environment / name).is_file():
            write_program(folder / name, f'#!/bin/sh\nexec {python} {environment / name} "$@"\n')
    for name, lines in (more or {}).items():
        write_program(folder / name, f"#!/bin/sh\n{lines}\n")


def start(address: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """The server.  It ends when its standard input is closed, as it is when this process ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.warm_python", str(address)],
        cwd=ROOT, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until_ready(server: subprocess.Popen[str]) -> None:
    """Until it takes programs, some seconds after its start."""
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"


def stop(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait(20)


@cache
def warm_python() -> str:
    """The program `python` of a server that all tests of this process share.  For runs of one thread."""
    folder = Path(tempfile.mkdtemp(prefix="warm_python_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    install(folder / "bin", folder / "socket")
    server = start(folder / "socket", os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    atexit.register(stop, server)
    wait_until_ready(server)
    return str(folder / "bin" / "python")


def write_program(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


class Server:
    """One connection per running process; a line with the process id, then, when it has ended, one with its exit code."""

    def __init__(self, address: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(
            sys.stdin, selectors.EVENT_READ, None
        )  # is closed when the one who started this has ended

    def serve(self) -> dict[str, Any] | None:
        """Returns in each forked process, with its request; and in the server, with None, at the end."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    request = self.accept()
                    if request is not None:
                        return request
                elif key.fileobj is sys.stdin:
                    for entry in list(self.selector.get_map().values()):
                        if isinstance(entry.fileobj, int):
                            os.kill(entry.data[1], signal.SIGKILL)
                    return None
                else:
                    self.answer(key)

    def accept(self) -> dict[str, Any] | None:
        connection, _ = self.listener.accept()
        size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(12))
        streams = array.array("i")
        streams.frombytes(ancillary[0][2][:12])
        request = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
        process = os.fork()
        if not process:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            self.close()
            connection.close()
            return request
        connection.sendall(f"{process}\n".encode())
        descriptor = os.pidfd_open(process)
        self.selector.register(descriptor, selectors.EVENT_READ, (connection, process))
        self.selector.register(connection, selectors.EVENT_READ, (descriptor, process))
        for stream in streams:
            os.close(stream)
        return None

    def answer(self, key: selectors.SelectorKey) -> None:
        other, process = key.data
        if not isinstance(key.fileobj, int):  # the program that asked was killed
            os.kill(process, signal.SIGKILL)
            self.selector.unregister(key.fileobj)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        self.selector.unregister(key.fileobj)
        os.close(key.fileobj)
        if other in {entry.fileobj for entry in self.selector.get_map().values()}:
            self.selector.unregister(other)
            other.sendall(f"{code}\n".encode())
        other.close()

    def close(self) -> None:
        """In a fork: what belongs to the server alone."""
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            elif key.fileobj is not sys.stdin:
                key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()


def run_to_exit(request: dict[str, Any], path: list[str]) -> None:
    """Ends as Python does, but does not free the memory of every module first, which takes a second."""
    for finalizer in list(
        weakref.finalize._registry
    ):  # such as wandb's of its folder for temporary files: they are the server's
        finalizer.detach()
    code: object = 0
    try:
        run(request, path)
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def run(request: dict[str, Any], path: list[str]) -> None:
    """As `python ARGUMENTS` would.  path: sys.path without the entry of the script."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = request["executable"]
    own = [entry for entry in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if entry]
    first, *rest = request["arguments"]
    target = rest.pop(0) if first in ("-m", "-c") else first
    sys.argv = [target, *rest]
    sys.path_importer_cache.clear()  # a folder that did not exist when this was imported
    sys.path[:] = [os.getcwd() if first == "-m" else "", *own, *path]
    if first == "-m":
        sys.modules.pop(target, None)
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[0] = "-c"
        exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(target).resolve().parent)
        runpy.run_path(target, run_name="__main__")


def main() -> None:
    path = [entry for entry in sys.path[1:] if entry not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the memory of all of these
    server = Server(sys.argv[1])
    print("ready", flush=True)
    request = server.serve()
    if request is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_to_exit(request, path)


if __name__ == "__main__":
    main()
