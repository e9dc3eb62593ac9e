"""resume=FOLDER: a run's own frozen config, with some values changed, where it was or where it was moved to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vlp.launch.config.changes import changes
from vlp.launch.config.compose import Composer
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.layout import length_settings
from vlp.launch.config.ranges import check_ranges
from vlp.launch.config.resolve import resolve_values
from vlp.launch.config.schema import ConfigSchema, find_key
from vlp.launch.config.trainer_settings import check_trainer
from vlp.launch.process import redact_overrides
from vlp.launch.runs.folder import freeze, header_comments, origin_of_header, read_frozen_config
from vlp.launch.runs.lock import run_folder_lock


def change_to_start_folder(folder: Path) -> None:
    """The folder from which a run was started, which its paths are meant from, becomes this process's, where it exists."""
    cwd = origin_of_header(header_comments(folder))[1]
    if cwd is not None and cwd.is_dir():
        os.chdir(cwd)


def apply_overrides_to_run(folder: Path, composer: Composer, overrides: list[str]) -> None:
    """Changes FOLDER/config.yaml and keeps the one before beside it.  Raises ConfigError."""
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"resume={folder}: it cannot be written to")
    with run_folder_lock(folder):
        _apply_overrides(folder, composer, overrides)


def _apply_overrides(folder: Path, composer: Composer, overrides: list[str]) -> None:
    file = folder / "config.yaml"
    then: Any = OmegaConf.to_container(read_frozen_config(file), resolve=False)
    comments = header_comments(folder)
    here: Any = _config_at_new_path(then, folder, *origin_of_header(comments))
    now = here | ({"force": False} if here.get("force") else {})  # has to be repeated each time
    for override in composer.parse(overrides):
        key = override.key_or_group
        if override.is_sweep_override() or override.is_add() or override.is_delete() or override.is_force_add():
            raise ConfigError(
                f"{override.input_line}: resume=FOLDER continues with one config and the keys that it has"
            )
        if key == "force":
            now["force"] = bool(override.value())
            continue
        if key == "checkpoint":
            raise ConfigError(
                f"{override.input_line}: {folder} continues from its own weights; to start from others, "
                "start a new run without resume="
            )
        if key in composer.groups:
            raise ConfigError(
                f"{override.input_line}: {folder} continues with its own parts; to exchange one start a new run, from its weights "
                f"with checkpoint={folder / 'checkpoints' / 'last.ckpt'}"
            )
        if not find_key(now, key)[0]:
            raise ConfigError(
                f"{override.input_line}: {folder} continues with its own config, which has no {key}: set one of its values, "
                "such as trainer.devices=2"
            )
        typed = ConfigSchema(now, composer.groups, lambda key: str(file)).check_override(override)
        changed = OmegaConf.create(now)
        OmegaConf.update(changed, key, override.value() if typed is None else typed, force_add=True)
        now = OmegaConf.to_container(changed, resolve=False)
    now = resolve_values(OmegaConf.create(now))  # a secret goes to the run by its environment
    check_ranges(now)
    check_trainer(now)
    differing = changes(here, now)
    if differing and not now.get("force"):
        raise ConfigError(
            f"resume={folder}: {'; '.join(differing)}: that would change what is trained; leave it, or add force=true"
        )
    if length_settings(here) != length_settings(now):
        _refuse_ended_run(folder, [override.key_or_group for override in composer.parse(overrides)])
    if then != now:
        count = next(n for n in range(1, 10_000) if not (folder / f"config.{n}.yaml").exists())
        shutil.copyfile(file, folder / f"config.{count}.yaml")
        comments = [line for line in comments if not line.startswith(("resumed with: ", "gone on with: "))]
        freeze(folder, now, "\n".join([*comments, f"resumed with: {' '.join(redact_overrides(overrides))}"]))


def _refuse_ended_run(folder: Path, keys: list[str]) -> None:
    """More epochs do not lift what ended training before its last step; the checkpoint's sidecar names the setting that does."""
    sidecar = folder / "checkpoints" / "last.ckpt.json"
    try:
        ended = json.loads(sidecar.read_text(encoding="utf-8")).get("ended")
    except (OSError, ValueError):
        return
    if ended and not any(key == ended["key"] or key.startswith(ended["key"] + ".") for key in keys):
        raise ConfigError(f"resume={folder}: training was ended by {ended['reason']}: to continue, {ended['advice']}")


def _config_at_new_path(config: Any, folder: Path, named: str | None, cwd: Path | None) -> Any:
    """The config with the folder's present name, where it was moved."""
    if named is None or cwd is None or (cwd / named).resolve() == folder:
        return config

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        return str(folder) + value[len(named) :] if isinstance(value, str) and _is_below(value, named) else value

    return renamed(config)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)
