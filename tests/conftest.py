"""Shape types are checked in every test; no test may leave this machine; shared reference data is optional."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # processes that share the cores; before torch is imported, for their children too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# before anything of vlp is imported, so that every jaxtyping annotation in it is checked at each call
_hook = install_import_hook("vlp", "beartype.beartype")

pytest_plugins = ("tests.data_fixtures",)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real photos that lies beside the checkout on the project's own machines."""
    if not SHARED.is_dir():
        pytest.skip("reference data (../shared) is not on this machine")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        local = self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            raise RuntimeError(f"a test tried to reach {address}: tests run without network")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]
