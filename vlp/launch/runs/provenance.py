"""What a run was trained on, with and measured by, for those who use its checkpoint: its own config says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.folder import header_comments, origin_of_header
from vlp.upgrade import upgrade

PARTS = {  # of a command: the config group → its place in a config
    "evaluate": {"data": "data", "task": "tasks"},
    "train": {"tokenizer": "tokenizer", "model": "model"},
}


def parts_of_checkpoint(path: str, command: str = "evaluate") -> list[tuple[str, str, Any]]:
    """Group, place in a config and content of what a command takes over from the run whose folder this is, or in whose
    checkpoints/ it lies; nothing for other files.  Raises ConfigError."""
    place = Path(os.path.expanduser(path)).absolute()
    folder = place.parents[1] if place.parent.name == "checkpoints" else place
    if not (folder / "config.yaml").is_file():
        return []
    file = folder / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: not a config; it should hold keys and values")
    config, cwd = upgrade(config), origin_of_header(header_comments(folder))[1]
    return [
        (group, part, _from_start_folder(config[part], cwd))
        for group, part in PARTS[command].items()
        if config.get(part)
    ]


def _from_start_folder(value: Any, cwd: Path | None, key: str = "") -> Any:
    """Folders of data are meant from where the run was started, if they are still there."""
    if isinstance(value, dict):
        return {name: _from_start_folder(inner, cwd, name) for name, inner in value.items()}
    if key == "root" and isinstance(value, str) and cwd and cwd != Path.cwd() and (cwd / value).exists():
        return str(cwd / value)
    return value
