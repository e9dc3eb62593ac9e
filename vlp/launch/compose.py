"""From conf/ and the overrides to one checked config: Hydra's composition, without importing torch.

The overrides and the experiment files are checked against what the other YAML files define (vlp/launch/check.py), so a
mistyped key fails here and not after a minute of training, or never.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vlp.launch.check import Known, check_targets
from vlp.launch.config.resolve import resolve_config, to_yaml
from vlp.launch.errors import EXPLAINED, ConfigError, explain
from vlp.system.compat import hydra as hydra_compat

PartsOfCheckpoint = Callable[[str], list[tuple[str, str, Any]]]
PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """The project's own YAML: `vlp/conf` in an installed wheel, `conf/` beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def data_root(name: str) -> str:
    """First existing folder of $VLP_DATA/NAME, data/NAME, ../data/NAME, ../shared/data/NAME; else $VLP_DATA/NAME, or data/NAME
    where that is not set."""
    folders = [Path(os.environ["VLP_DATA"])] if os.environ.get("VLP_DATA") else []
    for root in (Path(), PACKAGE.parent):
        folders += [root / "data", root / ".." / "data", root / ".." / "shared" / "data"]
    return str(
        next((f / name for f in folders if (f / name).exists()), Path(os.environ.get("VLP_DATA") or "data", name))
    )


class Composer:
    """Composes `config_name` from `conf`, the folders in `extra`, and `conf/` in the working folder if there is one.

    of_checkpoint: for `evaluate`, (group, place in the config, content) of the parts that the checkpoint of this path was
    trained with; they take the place of the groups that the overrides leave open.
    """

    def __init__(
        self,
        *,
        conf: Path,
        config_name: str,
        extra: Sequence[Path] = (),
        of_checkpoint: PartsOfCheckpoint | None = None,
    ) -> None:
        version.setbase("1.3")
        OmegaConf.register_new_resolver("data_root", data_root, replace=True)
        for folder in (conf, *extra):
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no such config folder")
        own = Path("conf").resolve()
        preferred = [*extra, *([own] if own.is_dir() and own != conf.resolve() else [])]
        self.hydra = hydra_compat.create_hydra(config_name, conf, preferred)
        self.loader: Any = self.hydra.config_loader
        self.config_name, self.conf, self.extra = config_name, conf, list(extra)
        self.of_checkpoint = of_checkpoint if config_name == "evaluate" else None
        self._bases: dict[tuple[str, ...], tuple[DictConfig, Any]] = {}

    def parse(self, lines: Sequence[str]) -> list[Override]:
        """Overrides as Hydra reads them, sweeps included."""
        try:
            return hydra_compat.parse_overrides(self.loader, lines)
        except EXPLAINED as error:
            raise ConfigError(explain(error)) from error

    def compose(self, lines: Sequence[str]) -> DictConfig:
        """The checked config (its `hydra` node included) for one run."""
        try:
            return self._compose(list(lines))
        except ConfigError:
            raise
        except MissingConfigException as error:
            if not error.options and error.missing_cfg_file:
                error.options = self.loader.get_group_options(error.missing_cfg_file.rpartition("/")[0])
            raise ConfigError(explain(error)) from error
        except EXPLAINED as error:
            raise ConfigError(explain(error)) from error

    def _compose(self, lines: list[str]) -> DictConfig:
        overrides, repository = hydra_compat.parse_overrides_with_repository(self.loader, self.config_name, lines)
        groups: list[Override] = []
        values: list[Override] = []
        for override in overrides:
            if override.is_sweep_override():
                key = override.get_key_element()
                raise ConfigError(
                    f"{override.input_line}: several values for one run: add -m to run them all, write {key}=[a,b] "
                    f"for a list, or quote the value twice: '{key}=\"a,b\"'"
                )
            whole = isinstance(override.value(), dict) or not repository.group_exists(override.key_or_group)
            if override.is_hydra_override() and override.key_or_group != "hydra.searchpath":
                raise ConfigError(
                    f"{override.input_line}: Hydra does not run the job here; name=… and runs=… choose the run folder"
                )
            (values if whole and not override.is_hydra_override() else groups).append(override)
        base, defaults = self._base(tuple(str(override.input_line) for override in groups))
        config = copy.deepcopy(base)
        if self.of_checkpoint is not None:
            chosen = {override.key_or_group for override in groups}
            checkpoint = next((o.value() for o in reversed(values) if o.key_or_group == "checkpoint"), None)
            for group, part, content in self.of_checkpoint(str(checkpoint)):
                if group not in chosen:
                    OmegaConf.update(config, part, content, merge=False, force_add=True)
        origin = partial(self.origin, defaults)
        for override in values:
            text = Known(plain(config), self.groups, origin).check_override(override)
            if override.is_delete() or text is None:
                hydra_compat.apply_override(self.loader, override, config)
            else:
                OmegaConf.update(config, override.key_or_group, text, force_add=True)
        check_targets(plain(config))
        return config

    def _base(self, groups: tuple[str, ...]) -> tuple[DictConfig, Any]:
        """The config of a choice of groups, before any value is overridden; a sweep composes each choice once."""
        if groups not in self._bases:
            config = self.loader.load_configuration(self.config_name, list(groups), run_mode=RunMode.RUN)
            defaults = self.loader.compute_defaults_list(self.config_name, list(groups), RunMode.RUN).defaults
            experiments = [d for d in defaults if (d.config_path or "").startswith("experiment/")]
            if experiments:
                _, repository = hydra_compat.parse_overrides_with_repository(self.loader, self.config_name, groups)
                others = [d for d in defaults if d not in experiments]
                skeleton = plain(hydra_compat.compose_defaults(self.loader, others, repository))
            for default in experiments:
                if default.package:
                    raise ConfigError(f"conf/{default.config_path}.yaml: its first line must be: # @package _global_")
                content = plain(repository.load_config(default.config_path).config)
                for place, name in self._left_out(content, skeleton, groups):
                    del content[place][name]
                    with open_dict(config):
                        del config[place][name]
                known = Known(skeleton, self.groups, partial(self.origin, others))
                known.check_file(f"conf/{default.config_path}.yaml", content)
            self._bases[groups] = config, defaults
        return self._bases[groups]

    def _left_out(
        self, experiment: dict[str, Any], skeleton: dict[str, Any], lines: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Parts that an experiment sets values of and the command line has not chosen: objective=[itc] of one with itm."""
        chosen = {line.partition("=")[0].lstrip("+~") for line in lines}
        return [
            (place, name)
            for group, place in (("objective", "objectives"), ("task", "tasks"), ("callbacks", "callbacks"))
            if group in chosen
            for name, values in (experiment.get(place) or {}).items()
            if name not in (skeleton.get(place) or {}) and "_target_" not in (values or {})
            if name in self.loader.get_group_options(group)
        ]

    @cached_property
    def groups(self) -> list[str]:
        """Every config group below conf/, with slashes: model, model/vision, …"""
        found = [""]
        for parent in found:  # grows while it is walked
            names = self.loader.list_groups(parent)
            found += [f"{parent}/{name}".lstrip("/") for name in names if name != "hydra"]
        return found[1:]

    def origin(self, defaults: Any, key: str) -> str:
        """The YAML file that last sets `key`, as a path below conf/."""
        for default in reversed(defaults):
            loaded = hydra_compat.load_default(self.loader, default)
            if OmegaConf.is_config(loaded) and OmegaConf.select(loaded, key, throw_on_missing=False) is not None:
                return f"conf/{default.config_path}.yaml"
        return f"conf/{self.config_name}.yaml"

    def show(self, lines: Sequence[str], *, kind: str, package: str | None, resolve: bool) -> str:
        """YAML text of `--cfg`: the job's config, Hydra's, or both."""
        config = self.compose(lines)
        job = OmegaConf.create(resolve_config(config, Path("run")) if resolve else plain(config))
        hydra = OmegaConf.create({"hydra": OmegaConf.to_container(config.hydra)})
        chosen: Any = {"job": job, "hydra": hydra, "all": OmegaConf.merge(hydra, job)}[kind]
        if package:
            chosen = OmegaConf.select(chosen, package)
            if not OmegaConf.is_config(chosen):
                raise ConfigError(f"--package {package}: no such part of the config")
        return to_yaml(chosen)


def plain(config: DictConfig) -> dict[str, Any]:
    """The config without Hydra's own node, unresolved."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in container.items() if key != "hydra"}
