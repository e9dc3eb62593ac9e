"""Every test checks shape types; no test may use the network; reference data is optional."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# parallel test processes share the cores; before torch is imported, and also for child processes
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# before vlp is imported, so that every call checks the jaxtyping annotations of vlp
_hook = install_import_hook("vlp", "beartype.beartype")

pytest_plugins = ("tests.data_fixtures",)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real photos next to the checkout, on the project's own machines."""
    if not SHARED.is_dir():
        pytest.skip("reference data (../shared) is not on this machine")
    return SHARED


@pytest.fixture(autouse=True)
def _no_deterministic_algorithms() -> Iterator[None]:
    """A Trainer switches them on for its whole process, and towers then compute otherwise: no test may depend on which
    tests this process has run before it."""
    import torch  # only now: after the number of threads and the import hook are set

    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="session")
def _short_waits_for_data_workers() -> None:
    """Loaders of a finished run wait for the garbage collector, which closes the pipes to their workers first: they cannot be
    asked to end, and torch waits this long for each before it ends them."""
    import torch.utils.data._utils

    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # type: ignore[assignment]


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> None:
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: object) -> None:
        local = self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            raise RuntimeError(f"a test tried to reach {address}: tests run without network")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = connect_locally  # type: ignore[method-assign, assignment]
