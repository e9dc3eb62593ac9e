"""From a composed config to plain values, in which every interpolation is followed except those of secrets.

Secrets stay `${oc.env:…}`: they reach the run through its environment and never the disk.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vlp.launch.config.errors import ConfigError, explain
from vlp.launch.config.typed_text import dump
from vlp.system.compat.hydra import raw_value
from vlp.system.errors import UserError
from vlp.system.secrets import HIDDEN, SECRET, SECRET_VARIABLE
from vlp.system.weight_folders import refuse_damaged


def resolve_config(config: DictConfig, folder: Path) -> dict[str, Any]:
    """The plain resolved config of a run in `folder`; `${hydra:runtime.output_dir}` is that folder."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    container = resolve_values(config)
    if container.get("checkpoint") and container.get("resume") not in (None, "auto"):
        raise ConfigError(
            f"checkpoint={container['checkpoint']} and resume={container['resume']}: a run that continues takes all weights from "
            "resume; leave out one of the two"
        )
    _resolve_mixed_checkpoints(container)
    for key in ("checkpoint", "resume"):
        path = container.get(key)
        if isinstance(path, str) and (key, path) != ("resume", "auto"):
            container[key] = os.path.expanduser(path)
            if not Path(container[key]).exists():
                raise ConfigError(f"{key}={path}: there is no such file or folder (from {Path.cwd()})")
            if key == "checkpoint" or Path(container[key]).is_file():
                _refuse_damaged_weights(f"{key}={path}", Path(container[key]))
    _resolve_teachers(container)
    if not container.get("checkpoint_strict", True) and not container.get("checkpoint"):
        raise ConfigError("checkpoint_strict=false is about the weights of checkpoint=PATH, which is not given")
    for name, tower in (container.get("model") or {}).items():
        weights = tower.get("weights") if isinstance(tower, dict) else None
        if isinstance(weights, str) and Path(weights).is_file():
            _refuse_damaged_weights(f"model.{name}.weights={weights}", Path(weights))
    return container


def _resolve_teachers(container: dict[str, Any]) -> None:
    """teachers={NAME: CHECKPOINT}: every one exists.  Raises ConfigError."""
    teachers = container.get("teachers") or {}
    if not isinstance(teachers, dict):
        raise ConfigError(f"teachers={teachers}: give names and checkpoints, such as 'teachers={{large: runs/large}}'")
    for name, path in teachers.items():
        if not isinstance(path, str) or not name.isidentifier() or name == "momentum":
            raise ConfigError(
                f"teachers.{name}={path}: give a name of letters and digits, other than momentum, and the path of a checkpoint"
            )
        teachers[name] = os.path.expanduser(path)
        if not Path(teachers[name]).exists():
            raise ConfigError(f"teachers.{name}={path}: there is no such file or folder (from {Path.cwd()})")
        _refuse_damaged_weights(f"teachers.{name}={path}", Path(teachers[name]))


def _resolve_mixed_checkpoints(container: dict[str, Any]) -> None:
    """checkpoint=[A,B] mix=[…]: both or neither, and both files exist.  Raises ConfigError."""
    paths, shares = container.get("checkpoint"), container.get("mix")
    if not isinstance(paths, list):
        if shares is not None:
            raise ConfigError(f"mix={shares} is of two checkpoints: give checkpoint=[A,B], or leave it out")
        return
    numbers = isinstance(shares, list) and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares)
    if len(paths) != 2 or not shares or not numbers:
        raise ConfigError(
            f"checkpoint={paths} mix={shares}: give two checkpoints and shares of the second from 0 to 1, "
            "such as checkpoint=[A,B] mix=[0,0.5,1]"
        )
    container["checkpoint"] = [os.path.expanduser(str(path)) for path in paths]
    for path in container["checkpoint"]:
        if not Path(path).exists():
            raise ConfigError(f"checkpoint={path}: there is no such file or folder (from {Path.cwd()})")
        _refuse_damaged_weights(f"checkpoint={path}", Path(path))


def _refuse_damaged_weights(override: str, path: Path) -> None:
    """Before a run folder appears and torch is imported."""
    try:
        refuse_damaged(path)
    except (UserError, OSError) as error:
        raise ConfigError(f"{override}: {error}") from error


def resolve_values(config: Any, path: str = "") -> Any:
    """Plain dicts and lists with every interpolation followed, secrets excepted. Raises ConfigError with the place of
    an interpolation that fails, and of every mandatory value (`???`) that is not set."""
    if path.count(".") > 60:
        raise ConfigError(f"{path.split('.')[0]}: an interpolation in it leads back to itself")
    if isinstance(config, DictConfig):
        return {str(name): _resolve_child(config, name, path) for name in config}
    if isinstance(config, ListConfig):
        return [_resolve_child(config, index, path) for index in range(len(config))]
    return config.replace("${", "\\${") if isinstance(config, str) else config


def _resolve_child(parent: Any, name: Any, path: str) -> Any:
    place = f"{path}.{name}" if path else str(name)
    raw = raw_value(parent, name)
    if OmegaConf.is_missing(parent, name):
        raise ConfigError(f"{place}: a value is needed; set it with {place}=…")
    if isinstance(raw, str) and (SECRET.match(str(name)) or SECRET_VARIABLE.search(raw)):
        return raw if "${" in raw else hide_secret(place, raw)
    try:
        value = parent[name]
    except RecursionError:
        raise ConfigError(f"{place}: the interpolation {raw} leads back to itself") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{place}: the interpolation {raw} cannot be resolved: {explain(error)}") from error
    return resolve_values(value, place)


def hide_secret(place: str, secret: str) -> str:
    """Hand a literal secret to this process's children through the environment; the config names the variable only."""
    variable = "VLP_SECRET_" + re.sub(r"\W", "_", place).upper()
    os.environ[variable] = secret
    return f"${{oc.env:{variable}}}"


def to_yaml(container: Any) -> str:
    """YAML text in which literal secrets are hidden."""
    if OmegaConf.is_config(container):
        container = OmegaConf.to_container(container, resolve=False)

    def shown(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: shown(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [shown(inner) for inner in value]
        return HIDDEN if isinstance(value, str) and value and SECRET.match(name) and "${" not in value else value

    return dump(shown(container))
