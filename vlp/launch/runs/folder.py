"""The run folder `runs/<name>/<stamp>/` and the frozen config in it.

Every process of a run starts from `config.yaml`: nothing is parsed twice, so the ranks of a job cannot disagree. All is
resolved in it except secrets (vlp/launch/config/resolve.py).
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vlp.launch.config.errors import ConfigError
from vlp.launch.config.typed_text import dump
from vlp.system.atomic import atomic_write_text
from vlp.upgrade import upgrade

FROM, FROM_FOLDER = "run folder: ", ", seen from: "


def parent_folder(container: dict[str, Any]) -> Path:
    """<runs>/<name>. Raises ConfigError where one of them is empty."""
    for key in ("runs", "name"):
        if container.get(key, key) in (None, ""):
            raise ConfigError(f"{key} is empty, and the run folder is <runs>/<name>/<time>/: set {key}=TEXT")
    return runs_folder(container) / safe_name(str(container.get("name", "scenes")))


def runs_folder(container: dict[str, Any]) -> Path:
    return Path(str(container.get("runs", "runs"))).expanduser()


def read_frozen_config(file: Path | str) -> DictConfig:
    """A frozen config in today's words. Its unresolved container is fit to be stored or shown; access resolves the secrets."""
    config = OmegaConf.load(file)
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file}: not a config; it should hold keys and values")
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create(upgrade(plain))


def safe_name(text: str, limit: int = 100) -> str:
    """Text as the name of one folder: what shells and file systems treat specially becomes '-'."""
    name = re.sub(r"[^\w=.,+@-]+", "-", text).strip("-.")[:limit]
    return name.encode()[:200].decode(errors="ignore").rstrip("-.") or "run"  # file systems count bytes, 255 at most


NEW_RUN_FOLDER = "VLP_NEW_RUN_FOLDER"  # variable: the folder that this command has created


def remove_run_folder(folder: Path) -> None:
    """Of a run that never began, with the folders of its name and of all runs where they hold nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def create_run_folder(parent: Path) -> Path:
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


def header_comments(folder: Path) -> list[str]:
    """The comments of RUN/config.yaml: the command that made it, and where."""
    lines = (folder / "config.yaml").read_text(encoding="utf-8").splitlines()
    return [line[2:] for line in lines if line.startswith("# ")]


def origin_of_header(header_lines: Sequence[str]) -> tuple[str | None, Path | None]:
    """From a header: the run folder as the config names it, and the folder from which that is meant."""
    for line in header_lines:
        if line.startswith(FROM) and FROM_FOLDER in line:
            named, _, cwd = line.removeprefix(FROM).partition(FROM_FOLDER)
            return named, Path(cwd)
    return None, None


def freeze(folder: Path, container: dict[str, Any], command: str) -> Path:
    """Write RUN/config.yaml, headed by the command that made it and by what its paths are meant from."""
    file = folder / "config.yaml"
    lines = command.splitlines()
    if origin_of_header(lines) == (None, None):
        lines.insert(1, f"{FROM}{folder}{FROM_FOLDER}{Path.cwd()}")
    header_lines = "".join(f"# {line}\n" for line in lines)
    try:
        folder.mkdir(exist_ok=True)
        atomic_write_text(file, header_lines + dump(container))
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; choose another place with runs=DIR") from error
    return file
