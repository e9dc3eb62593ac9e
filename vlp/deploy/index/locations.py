"""Where an index is, if the command does not say it, and which artifact made it."""

from __future__ import annotations

import os
from pathlib import Path

from vlp.deploy.index.store import MANIFEST, read_manifest
from vlp.system.errors import UserError


def default_store() -> Path:
    """$VLP_INDEX, else ~/.local/share/vlp/index (below $XDG_DATA_HOME, if that is set)."""
    if named := os.environ.get("VLP_INDEX"):
        return Path(named).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "vlp" / "index"


def artifact_of(store: Path, given: Path | None) -> Path:
    """The artifact to embed with: the given one, else that which made the index.  Raises FileNotFoundError, UserError."""
    if given is not None:
        if not given.expanduser().is_dir():
            raise FileNotFoundError(f"{given}: there is no such folder; `vlp export` writes an artifact")
        return given.expanduser()
    if not (store / MANIFEST).is_file():
        raise UserError(
            f"{store}: there is no index yet; name the model with --engine ARTIFACT (`vlp export` writes one)"
        )
    recorded = read_manifest(store).artifact
    return check_recorded(recorded, store)


def check_recorded(recorded: str | None, store: object) -> Path:
    """Raises FileNotFoundError where the artifact that an index names is gone."""
    if recorded is None or not Path(recorded).is_dir():
        raise FileNotFoundError(
            f"{recorded or 'the artifact'}, which made {store}, is not there; name it with --engine ARTIFACT"
        )
    return Path(recorded)
