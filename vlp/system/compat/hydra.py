"""What vlp needs of Hydra and OmegaConf beyond their public names. tests/system/compat/test_hydra.py states what each one has
to do.

Hydra's public `compose` gives a config and nothing of how it came about. vlp checks every override against the YAML files that
define its key, so it needs the steps of composing one by one: parse the overrides, load a file of the defaults list, compose a
part of that list, apply one override.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf._utils import split_key as _split_key


def argument_parser() -> ArgumentParser:
    """Hydra's command line (--cfg, --info, -m, …), to which options can be added. `hydra.main` is its only public user, and
    changes the working folder and the logging as well."""
    return get_args_parser()


def create_hydra(task_name: str, folder: Path, preferred: Sequence[Path] = ()) -> Any:
    """A Hydra object that finds YAML files in `folder`, and before that in each of `preferred`, the last one first.

    It has `config_loader`, `hydra_help`, `app_help`, `shell_completion` and `show_info`. It replaces one that was created before.
    """
    search_path = create_config_search_path(f"file://{folder.resolve()}")
    for other in preferred:
        search_path.prepend("command-line", f"file://{other.resolve()}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name=task_name, config_search_path=search_path)


def parse_overrides(loader: Any, lines: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them, sweeps included."""
    return OverridesParser.create(config_loader=loader).parse_overrides(list(lines))


def is_readable_override(loader: Any, line: str) -> bool:
    """Whether Hydra's grammar reads an override, whatever its key and value."""
    try:
        parse_overrides(loader, [line])
    except HydraException:
        return False
    return True


def parse_overrides_with_repository(loader: Any, config_name: str, lines: Sequence[str]) -> tuple[list[Override], Any]:
    """The overrides, and the repository of YAML files that they lead to (an override may add a folder to the search path);
    the repository has `group_exists` and `load_config`."""
    return loader._parse_overrides_and_create_caching_repo(config_name, list(lines))


def apply_override(loader: Any, override: Override, config: DictConfig) -> None:
    """Change `config` as Hydra itself would: `~key` removes, `+key` adds."""
    loader._apply_overrides_to_config([override], config)


def compose_defaults(loader: Any, defaults: Sequence[Any], repository: Any) -> DictConfig:
    """The config that these entries of a defaults list give, and no others. `load_configuration` takes only all of them."""
    return loader._compose_config_from_defaults_list(defaults=list(defaults), repo=repository)


def load_default(loader: Any, default: Any) -> Any:
    """The config of one entry of a defaults list, at the place that its package gives it."""
    return loader._load_single_config(default, loader.repository).config


def split_key(key: str) -> list[str]:
    """`a.b[0]` as its parts a, b and 0, in OmegaConf's own grammar; OmegaConf has no public function for it."""
    return _split_key(key)


def raw_value(parent: Any, name: Any) -> Any:
    """The value of a key as it is written: an interpolation as its text, which is not followed.

    `OmegaConf.to_container(resolve=False)` gives it as well, but copies everything below the key.
    """
    return parent._get_node(name)._value()
