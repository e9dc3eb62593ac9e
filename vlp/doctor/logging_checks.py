"""W&B and the monitor: what would be logged, and whether the figure that selects best.ckpt exists."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from vlp.doctor.finding import Finding, error, fine_finding
from vlp.launch.config.layout import sources, tasks, wrong_monitor

TIMEOUT_S = 2.0  # seconds for W&B's server to answer


def check_wandb(config: dict[str, Any], has_key: bool, environment: Mapping[str, str] = os.environ) -> Finding:
    node = (config.get("loggers") or {}).get("wandb")
    if not node:
        return fine_finding("tracking.wandb", "not used")
    has_key = has_key or bool(node.get("api_key"))
    asked = node.get("mode") or environment.get("WANDB_MODE")
    mode = asked or ("online" if has_key else "offline")
    if mode != "online":
        return fine_finding("tracking.wandb", mode)
    if not has_key:
        fix = "wandb login    # or: vlp train loggers.wandb.mode=offline"
        return error("tracking.wandb", "mode is online, and there is no key", fix)
    address = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as problem:
        message = f"mode is online, and {host}:{port} does not answer ({problem})"
        return error("tracking.wandb", message, "vlp train loggers.wandb.mode=offline    # and later: wandb sync")
    return fine_finding("tracking.wandb", f"online, {host} answers")


def check_monitor(config: dict[str, Any], figures: list[str] | None = None) -> Finding:
    """figures: names that a real validation gave; None = not measured, then source and task are looked at alone."""
    name = str(config["monitor"])
    known = list(tasks(config))
    if wrong_monitor(config) is None and (figures is None or name in figures):
        return fine_finding("tracking.monitor", name)
    near = [figure for figure in figures or () if figure.startswith("val/")]
    first = f"val/{next(iter(sources(config)))}/{known[0] if known else 'retrieval'}"
    fitting = [figure for figure in near if figure.endswith("/rsum")] or near or [f"{first}/rsum"]
    message = f"monitor={name} is no figure of this run, whose tasks are {', '.join(known) or 'none'}"
    return error("tracking.monitor", message, f"vlp train monitor={fitting[0]}")
