"""`vlp ls`: the options that YAML offers, of conf/ and of the studies, each with the first comment of its file."""

from __future__ import annotations

from pathlib import Path

from vlp.launch.config.compose import config_folders
from vlp.launch.config.errors import ConfigError, join_names
from vlp.system.suggest import nearest_option

KINDS = {  # what `vlp ls` prints unasked: its plural → the config group
    "models": "model",
    "towers": "model/vision",
    "texts": "model/text",
    "data": "data",
    "objectives": "objective",
    "tasks": "task",
    "experiments": "experiment",
}


def groups() -> list[str]:
    """Every config group, with slashes: data, model, model/vision, …"""
    found = {file.parent.relative_to(conf) for conf in config_folders() for file in conf.glob("*/**/*.yaml")}
    return sorted(group.as_posix() for group in found)


def options(group: str) -> dict[str, Path]:
    """Option → its YAML file, the one that a run would read."""
    files: dict[str, Path] = {}
    for conf in config_folders():
        for file in (conf / group).glob("*.yaml"):
            files.setdefault(file.stem, file)
    return dict(sorted(files.items()))


def print_choices(kind: str | None) -> None:
    """Print one group (task, model/vision, or its plural), or all of KINDS. Raises ConfigError for a group that is not there."""
    chosen = {kind: KINDS.get(kind, kind)} if kind else KINDS
    for name, group in chosen.items():
        files = options(group.strip("/"))
        if not files:
            known = sorted({*KINDS, *groups()})
            raise ConfigError(
                f"there is no config group {name}:{nearest_option(name, known)} There are {join_names(known)}"
            )
        width = max(map(len, files))
        print(f"{name} ({group}=…)")
        for option, file in files.items():
            print(f"  {option:{width}}  {first_comment(file)}".rstrip())


def first_comment(file: Path) -> str:
    """What a YAML file says it is: its first comment that is not Hydra's `# @package`."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if (text := line.lstrip("# ").strip()) and not text.startswith("@package"):
            return text
    return ""
