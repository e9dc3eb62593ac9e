"""The run folder `runs/<name>/<stamp>/` and the frozen config in it.

Every process of a run starts from `config.yaml`: nothing is parsed twice, so the ranks of a job cannot disagree. All is
resolved in it except secrets, which stay `${oc.env:…}`: they reach the run through its environment and never the disk.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vlp.launch.errors import ConfigError, explain
from vlp.system.compat.hydra import raw_value

SECRET = re.compile(
    r"^((.*_)?(api_?key|access_?key|secret(_key)?|password|passwd)|((auth|access|hf|hub|bearer|api|wandb)_?)?token)$",
    re.I,
)
FROM, FROM_FOLDER = "run folder: ", ", seen from: "
SECRET_VARIABLE = re.compile(r"\boc\.env:[^}]*(token|key|secret|password)", re.I)


def settle(config: DictConfig, folder: Path) -> dict[str, Any]:
    """The plain resolved config of a run in `folder`; `${hydra:runtime.output_dir}` is that folder."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    container = resolved(config)
    for key in ("checkpoint", "resume"):
        path = container.get(key)
        if isinstance(path, str) and (key, path) != ("resume", "auto"):
            container[key] = os.path.expanduser(path)
            if not Path(container[key]).exists():
                raise ConfigError(f"{key}={path}: there is no such file or folder (from {Path.cwd()})")
    return container


def parent_folder(container: dict[str, Any]) -> Path:
    return Path(container.get("runs") or "runs") / safe_name(str(container.get("name") or "scenes"))


def resolved(config: Any, path: str = "") -> Any:
    """Plain dicts and lists with every interpolation followed, secrets excepted. Raises ConfigError with the place of
    an interpolation that fails, and of every mandatory value (`???`) that is not set."""
    if path.count(".") > 60:
        raise ConfigError(f"{path.split('.')[0]}: an interpolation in it leads back to itself")
    if isinstance(config, DictConfig):
        return {str(name): _resolved_child(config, name, path) for name in config}
    if isinstance(config, ListConfig):
        return [_resolved_child(config, index, path) for index in range(len(config))]
    return config.replace("${", "\\${") if isinstance(config, str) else config


def _resolved_child(parent: Any, name: Any, path: str) -> Any:
    place = f"{path}.{name}" if path else str(name)
    raw = raw_value(parent, name)
    if OmegaConf.is_missing(parent, name):
        raise ConfigError(f"{place}: a value is needed; set it with {place}=…")
    if isinstance(raw, str) and (SECRET.match(str(name)) or SECRET_VARIABLE.search(raw)):
        return raw if "${" in raw else hide(place, raw)
    try:
        value = parent[name]
    except RecursionError:
        raise ConfigError(f"{place}: the interpolation {raw} leads back to itself") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{place}: the interpolation {raw} cannot be resolved: {explain(error)}") from error
    return resolved(value, place)


def hide(place: str, secret: str) -> str:
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
        return "<hidden>" if isinstance(value, str) and value and SECRET.match(name) and "${" not in value else value

    return yaml.safe_dump(shown(container), sort_keys=False, allow_unicode=True, width=2**16)


def read(file: Path | str) -> DictConfig:
    """A frozen config. Its unresolved container is fit to be stored or shown; access resolves the secrets."""
    config = OmegaConf.load(file)
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file}: not a config; it should hold keys and values")
    return config


def write_text(file: Path, text: str) -> None:
    """All of the text or none of it, also when the machine stops in between."""
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def safe_name(text: str, limit: int = 100) -> str:
    """Text as the name of one folder: what shells and file systems treat specially becomes '-'."""
    return re.sub(r"[^\w=.,+@-]+", "-", text).strip("-.")[:limit].rstrip("-.") or "run"


def create(parent: Path) -> Path:
    """A new folder named by the time, unique also within a second and between processes."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for count in range(1, 10_000):
            folder = parent / (stamp if count == 1 else f"{stamp}-{count}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(
            f"cannot create a run folder in {parent}: {error.strerror}; choose another place with runs=DIR"
        ) from error
    raise ConfigError(f"{parent}: no free name for a run folder at {stamp}")


def header(folder: Path) -> list[str]:
    """The comments of RUN/config.yaml: the command that made it, and where."""
    lines = (folder / "config.yaml").read_text(encoding="utf-8").splitlines()
    return [line[2:] for line in lines if line.startswith("# ")]


def origin(told: Sequence[str]) -> tuple[str | None, Path | None]:
    """From a header: the run folder as the config names it, and the folder from which that is meant."""
    for line in told:
        if line.startswith(FROM) and FROM_FOLDER in line:
            named, _, cwd = line.removeprefix(FROM).partition(FROM_FOLDER)
            return named, Path(cwd)
    return None, None


def freeze(folder: Path, container: dict[str, Any], command: str) -> Path:
    """Write RUN/config.yaml, headed by the command that made it and by what its paths are meant from."""
    file = folder / "config.yaml"
    lines = command.splitlines()
    if origin(lines) == (None, None):
        lines.insert(1, f"{FROM}{folder}{FROM_FOLDER}{Path.cwd()}")
    told = "".join(f"# {line}\n" for line in lines)
    try:
        folder.mkdir(exist_ok=True)
        write_text(file, told + yaml.safe_dump(container, sort_keys=False, allow_unicode=True, width=2**16))
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; choose another place with runs=DIR") from error
    return file
