"""W&B's environment variables, as far as a run folder depends on them: its mode, its key, its tags and its id.

Project, entity, group and name are read by conf/logger/wandb.yaml. An id is that of one run, and belongs to the first run folder
that was started with it: a second one, of a sweep or of the same shell, would write into the first one's figures.
"""

from __future__ import annotations

import netrc
import os
import re
import sys
from pathlib import Path
from typing import Any

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.folder import runs_folder

MODES = ("online", "offline", "disabled")
_OLD_MODES = {"run": "online", "dryrun": "offline"}  # W&B's own former words
RUN_ID = "WANDB_RUN_ID"


def wandb_mode(asked: str | None, api_key: str | None) -> str:
    """The setting, else $WANDB_DISABLED, else $WANDB_MODE, else online where there is a key. Raises ConfigError."""
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on")
    given = asked or ("disabled" if disabled else os.environ.get("WANDB_MODE"))
    where = f"loggers.wandb.mode={asked}" if asked else f"WANDB_MODE={given}"
    has_key = bool(api_key) or has_wandb_key()
    mode = _OLD_MODES.get(str(given), given) or ("online" if has_key else "offline")
    if mode not in MODES:
        raise ConfigError(f"{where}: expected {', '.join(MODES)}")
    if mode == "online" and not has_key:
        raise ConfigError(
            f"{where}, and there is no key: run `wandb login` or set WANDB_API_KEY; or write loggers.wandb.mode=offline and "
            "upload later with `wandb sync`"
        )
    return mode


def has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def logger_node(container: dict[str, Any]) -> dict[str, Any] | None:
    node = (container.get("loggers") or {}).get("wandb")
    return node if isinstance(node, dict) and node.get("_target_") else None


def check_wandb(container: dict[str, Any]) -> None:
    """Raises ConfigError, before there is a run folder, where W&B could not begin."""
    if (node := logger_node(container)) is not None:
        key = node.get("api_key")
        variable = re.fullmatch(r"\$\{oc\.env:(\w+)[^}]*\}", str(key))
        wandb_mode(node.get("mode"), os.environ.get(variable[1]) if variable else key)


def take_tags(container: dict[str, Any]) -> None:
    """$WANDB_TAGS, separated by commas, where the config leaves them open."""
    if (node := logger_node(container)) is not None and node.get("tags") is None:
        node["tags"] = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]


def claim_run_id(container: dict[str, Any], folder: Path) -> None:
    """Gives $WANDB_RUN_ID to the first run folder that asks for it; each further one gets an id of its own, and says so."""
    run_id, node = os.environ.get(RUN_ID), logger_node(container)
    if not run_id or node is None or node.get("id"):
        return
    note = runs_folder(container) / f".wandb-{re.sub(r'[^A-Za-z0-9_.-]', '-', run_id)}"
    owner = Path(note.read_text(encoding="utf-8")) if note.is_file() else None
    if owner is not None and not owner.is_dir():  # deleted since
        note.unlink(missing_ok=True)
    try:
        with open(note, "x", encoding="utf-8") as file:
            file.write(str(folder.resolve()))
    except FileExistsError:
        print(
            f"{RUN_ID}={run_id} belongs to {owner or note}; this run gets an id of its own", file=sys.stderr, flush=True
        )
        return
    node["id"] = run_id


def separate_job(container: dict[str, Any], folder: Path) -> None:
    """A job of a sweep in the sweep's group, with a name of its own where all have one. Raises ConfigError for a common id."""
    if (node := logger_node(container)) is None:
        return
    if node.get("id"):
        raise ConfigError(f"loggers.wandb.id={node['id']}: each job of a sweep is a W&B run of its own; leave it out")
    if node.get("name"):
        node["name"] = f"{node['name']}/{folder.name}"
